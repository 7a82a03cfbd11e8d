"""Measures over epochs: mean and extremes over the seeds of a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from recipes.training.history import Epoch

TEST_ACCURACY = "test_accuracy"
"""The curve beside those of the measures of collapse."""


@dataclass(frozen=True)
class Curve:
    """A number at each epoch; None where it is defined for no seed."""

    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True)
class Curves:
    """Measures over epochs."""

    epochs: list[int]  # at whose ends they were measured
    curves: dict[str, Curve]  # by measure, TEST_ACCURACY among them


def curves_of(histories: Sequence[Sequence[Epoch]]) -> Curves:
    """The curves of runs with different seeds, measured at the same epochs."""
    rows = list(zip(*histories, strict=True))
    found = {TEST_ACCURACY: _curve([[e.test.mean_accuracy for e in row] for row in rows])}
    for name in histories[0][0].collapse:
        found[name] = _curve([[e.collapse.get(name) for e in row] for row in rows])
    return Curves([row[0].epoch for row in rows], found)


def _curve(rows: Sequence[Sequence[float | None]]) -> Curve:
    known = [[value for value in row if value is not None] for row in rows]
    return Curve(
        mean=[fmean(row) if row else None for row in known],
        low=[min(row, default=None) for row in known],
        high=[max(row, default=None) for row in known],
    )
