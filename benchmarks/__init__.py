"""Benchmarks: one file for each question, JSON with provenance, and one page of all results.

    python -m benchmarks                          # measure all, render runs/benchmarks.html
    python -m benchmarks --only savings collapse  # measure these, render all
    python -m benchmarks --render-only            # the page from benchmarks/results/ as it is
    python -m benchmarks.collapse --help          # one question, with its own settings

A benchmark called NAME consists of:

- ``benchmarks/NAME.py`` with ``main``, whose keyword arguments are its command line (tyro). With
  no arguments it measures all and writes ``benchmarks/results/NAME.json``.
  ``benchmarks/harness.py`` has processes, clocks, peak memory, and the writing with provenance.
- ``benchmarks/sections/NAME.py`` with ``section(result)``: a :class:`benchmarks.page.Section` made
  of that file alone.
- a row in ``benchmarks/registry.py``.
"""
