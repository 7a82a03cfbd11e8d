"""Measure what this machine can measure, and render the page of all results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from benchmarks.harness import result_file
from benchmarks.page import write_benchmarks_page
from benchmarks.registry import BENCHMARKS
from recipes.provenance import Provenance
from recipes.records import from_json
from recipes.storage import read_json

PAGE = Path(__file__).parent.parent / "runs" / "benchmarks.html"


if TYPE_CHECKING:
    Name = str
else:
    Name = tyro.extras.literal_type_from_choices([benchmark.name for benchmark in BENCHMARKS])


def main(*, only: tuple[Name, ...] = (), render_only: bool = False, page: Path = PAGE) -> None:
    """Measure what this machine can measure, and render the page of all results.

    Args:
        only: measure these alone; all by default.
        render_only: measure nothing: the page of the results that are there.
        page: where the page goes.
    """
    for benchmark in BENCHMARKS:
        if render_only or (only and benchmark.name not in only):
            continue
        if benchmark.missing:
            print(f"{benchmark.name}: left out, needs {', '.join(benchmark.missing)}")
        else:
            print(f"{benchmark.name}:", flush=True)
            benchmark.run()
    found = [b for b in BENCHMARKS if result_file(b.name).exists()]
    results = {benchmark: read_json(result_file(benchmark.name)) for benchmark in found}
    sections = {
        b.name: (b.section(result), from_json(Provenance, result["provenance"]))
        for b, result in results.items()
    }
    page.parent.mkdir(parents=True, exist_ok=True)
    write_benchmarks_page(sections, page)
    print(f"page: {page}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks")
