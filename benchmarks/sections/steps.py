"""Times and memory of training steps, by size and method, as text, tables and a chart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.charts import Panel, chart
from benchmarks.page import UNKNOWN, reason
from recipes.pages.tables import Line, bytes_in_words

FASTEST = "fastest learned"
"""Stands for a different method at each size, see :meth:`Steps.fastest`."""

Size = tuple[int, ...]


class Steps:
    """The entries of a benchmark of training steps.

    Args:
        entries: under ``steps`` in its result.
        fields: of an entry that make its size.
        words: a size in words.
        learned: methods with a learned head.
    """

    def __init__(
        self,
        entries: Sequence[Mapping[str, Any]],
        fields: Sequence[str],
        words: Callable[[Size], str],
        learned: Sequence[str],
    ) -> None:
        self._fields, self.words, self._learned = fields, words, learned
        self._entries = {(self.size_of(entry), entry["method"]): entry for entry in entries}
        self.sizes = list(dict.fromkeys(size for size, _ in self._entries))

    def size_of(self, entry: Mapping[str, Any]) -> Size:
        """The size of an entry, or of anything else with its fields."""
        return tuple(entry[field] for field in self._fields)

    def fastest(self, size: Size) -> str | None:
        """The fastest learned head; None where none could be measured."""
        found = {m: t for m in self._learned if (t := self.seconds(size, m)) is not None}
        return min(found, key=lambda method: found[method], default=None)

    def seconds(self, size: Size, method: str) -> float | None:
        """The median; None where it was not measured."""
        return self._entry(size, method).get("median_s")

    def ratio(self, size: Size, above: str, below: str) -> float | None:
        """Of two medians; None where one of them was not measured."""
        high, low = self.seconds(size, above), self.seconds(size, below)
        return high / low if high and low else None

    def ratios(self, above: str, below: str) -> list[float]:
        """Those of all sizes with both."""
        found = (self.ratio(size, above, below) for size in self.sizes)
        return [ratio for ratio in found if ratio is not None]

    def times_less(self, method: str) -> str:
        """The range of the ratios of the fastest learned head to this one."""
        ratios = self.ratios(FASTEST, method)
        return f"{min(ratios):.1f} to {max(ratios):.0f}" if ratios else UNKNOWN

    def time(self, size: Size, method: str) -> str:
        """Median milliseconds, or why there are none."""
        seconds = self.seconds(size, method)
        return reason(self._entry(size, method)) if seconds is None else milliseconds(seconds)

    def memory(self, size: Size, method: str) -> str:
        """Peak memory, or why it was not measured."""
        entry = self._entry(size, method)
        memory = entry.get("memory", entry)
        return bytes_in_words(memory["bytes"]) if "bytes" in memory else reason(memory)

    def table(
        self, cell: Callable[[Size, str], str], sizes: Sequence[Size] | None = None
    ) -> list[Line]:
        """A line for each method, a column for each size; all sizes by default."""
        sizes = self.sizes if sizes is None else sizes
        methods = dict.fromkeys(method for size, method in self._entries if size in sizes)
        return [
            ("", *map(self.words, sizes)),
            *((method, *(cell(size, method) for size in sizes)) for method in methods),
        ]

    def chart(self, methods: Sequence[str], *, missing: str) -> str:
        """Median times as dots, as an ``<svg>`` element."""
        seconds = {
            method: [self.seconds(size, method) for size in self.sizes] for method in methods
        }
        series = {
            name: [None if value is None else 1e3 * value for value in values]
            for name, values in seconds.items()
        }
        return chart(
            [Panel("Milliseconds a step", list(map(self.words, self.sizes)), series)],
            text=lambda value: f"{milliseconds(value / 1e3)} ms",
            logarithmic=True,
            missing=missing,
        )

    def measured_memory(self) -> list[Size]:
        """Sizes at which memory was measured."""
        return [
            size
            for size in self.sizes
            if any(own == size and "memory" in e for (own, _), e in self._entries.items())
        ]

    def _entry(self, size: Size, method: str) -> Mapping[str, Any]:
        name = self.fastest(size) if method == FASTEST else method
        return self._entries.get((size, name or ""), {})


def milliseconds(seconds: float) -> str:
    """Three digits, and all before the point."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 1 else f"{1e3 * seconds:.3g}"
