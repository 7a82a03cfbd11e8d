"""Measure what this machine can measure, and render the page of all results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import result_file
from benchmarks.page import write_benchmarks_page
from benchmarks.registry import BENCHMARKS
from recipes.storage import read_json

PAGE = Path(__file__).parent.parent / "runs" / "benchmarks.html"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line says, then render every result there is."""
    options = _options(arguments)
    for benchmark in BENCHMARKS:
        if options.render_only or benchmark.name not in options.only:
            continue
        if benchmark.missing:
            print(f"{benchmark.name}: left out, needs {', '.join(benchmark.missing)}")
        else:
            print(f"{benchmark.name}:", flush=True)
            benchmark.run()
    found = [b for b in BENCHMARKS if result_file(b.name).exists()]
    results = {benchmark: read_json(result_file(benchmark.name)) for benchmark in found}
    sections = {b.name: (b.section(result), result["provenance"]) for b, result in results.items()}
    options.page.parent.mkdir(parents=True, exist_ok=True)
    write_benchmarks_page(sections, options.page)
    print(f"page: {options.page}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="measure only these (default: all)"
    )
    parser.add_argument(
        "--render-only", action="store_true", help="measure nothing: the page from the files"
    )
    parser.add_argument(
        "--page", type=Path, default=PAGE, help="where the page goes (default: %(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
