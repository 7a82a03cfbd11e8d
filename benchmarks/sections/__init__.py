"""Sections of the benchmark page, one for each result."""
