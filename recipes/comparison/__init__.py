"""Finished runs of several heads and seeds: summary, tables, figures, page."""
