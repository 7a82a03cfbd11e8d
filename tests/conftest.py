"""Shared by all tests."""

from importlib.util import find_spec

from hypothesis import settings

settings.register_profile("etf_heads", deadline=None)  # a slow machine is no failed law
settings.load_profile("etf_heads")

if find_spec("timm") is None:  # the core-only environment
    collect_ignore_glob = ["benchmarks/*"]
