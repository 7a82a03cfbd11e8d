"""Tables of text, and numbers as they stand in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recipes.intervals import Interval

Line = tuple[str, ...]
"""Cells of a line of a table."""


def terminal_table(lines: Sequence[Line]) -> str:
    """Columns aligned for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [first.ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        )
        for first, *rest in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def bytes_in_words(count: float) -> str:
    """A number of bytes in a decimal unit, such as 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def measured(value: Interval | None) -> str:
    """Mean and half-width of a measure, or a dash where it is not defined."""
    if value is None or math.isnan(value.mean):
        return "–"
    return f"{value.mean:.3g}" + ("" if value.half is None else f" ± {value.half:.2g}")


def percent(value: Interval) -> str:
    """Mean and half-width of an interval, in percent."""
    return f"{value.mean:.2%}{_half_in_points(value)}"


def points(value: Interval) -> str:
    """The same of a difference, in percentage points with a sign."""
    return f"{100 * value.mean:+.2f}{_half_in_points(value)}"


def _half_in_points(value: Interval) -> str:
    return "" if value.half is None else f" ± {100 * value.half:.2f}"
