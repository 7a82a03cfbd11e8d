"""One file a question: measured, with provenance, as JSON; and one page of them all.

    python -m benchmarks                          # measure all, render runs/benchmarks.html
    python -m benchmarks --only savings collapse  # measure these, render all
    python -m benchmarks --render-only            # the page from benchmarks/results/ as it is
    python -m benchmarks.collapse --help          # one question, with its own settings

A benchmark called NAME plugs in with three things:

- ``benchmarks/NAME.py`` has ``main(arguments=None)``: its command line (a list of strings; None
  reads ``sys.argv``). With no arguments it measures all and writes
  ``benchmarks/results/NAME.json``. ``benchmarks/harness.py`` has what that takes: command line,
  processes, clocks, peak memory, and the writing with provenance.
- ``benchmarks/sections/NAME.py`` has ``section(result)``: what the page shows of that file, as a
  :class:`benchmarks.page.Section`. It computes and measures nothing that is not in the file.
- a line in ``benchmarks/registry.py``.
"""
