"""All results on one page, from the files in ``benchmarks/results/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.pages.page import Figure, origin, write_page
from recipes.pages.tables import Line
from recipes.provenance import Provenance

UNKNOWN = "–"
"""A number that was not measured; it gets no card."""


@dataclass(frozen=True)
class Table:
    """Lines of text, the first one the head, and what stands below them."""

    lines: Sequence[Line]
    caption: str


@dataclass(frozen=True)
class Section:
    """The part of the page about one result.

    Attributes:
        title: the question.
        verdict: one sentence that says what the numbers say, computed from them.
        card: a number for the top of the page, and its label.
        figures: the pictures.
        tables: the numbers.
    """

    title: str
    verdict: str
    card: tuple[str, str]
    figures: Sequence[Figure] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)


def reason(entry: Mapping[str, Any]) -> str:
    """Why a measurement has no numbers."""
    return str(entry.get("stopped") or entry.get("failed") or UNKNOWN)


def write_benchmarks_page(sections: Mapping[str, tuple[Section, Provenance]], path: Path) -> None:
    """Render the page; everything in it is inside the one file.

    Args:
        sections: sections with the provenance of their numbers, by the name of the benchmark.
        path: the file.
    """
    context = {
        "title": "What fixed heads save, and what they cost",
        "verdict": "Every section says what its numbers say, and where and when they were made.",
        "cards": [
            {"value": section.card[0], "label": section.card[1]}
            for section, _ in sections.values()
            if section.card[0] != UNKNOWN
        ],
        "sections": [
            {"name": name, "section": section, "facts": origin(provenance)}
            for name, (section, provenance) in sections.items()
        ],
        "facts": {
            name: f"benchmarks/results/{name}.json, measured by python -m benchmarks.{name}"
            for name in sections
        },
    }
    write_page(Path(__file__).with_name("benchmarks.html.jinja"), context, path)
