"""Shared by all tests."""

from hypothesis import settings

settings.register_profile("etf_heads", deadline=None)  # a slow machine is no failed law
settings.load_profile("etf_heads")
