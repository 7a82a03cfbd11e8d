"""Classifier heads of fixed geometry."""

__version__ = "0.1.0"
