"""Means over seeds with their 95% intervals, by Student's t."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean and the 95% interval around it."""

    mean: float  # of the values
    half: float | None  # half the width of the interval; None for a single value
    n: int  # number of values

    @property
    def spread(self) -> float:
        """The half width, 0 where there is none."""
        return self.half or 0.0


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95% interval of the mean by Student's t."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, 1)
    if len(set(values)) == 1:  # whose mean, rounded, may be beside them
        return Interval(values[0], 0.0, n)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Interval(mean, half_width(spread, n), n)


def half_width(spread: float, n: int) -> float:
    """Half of the 95% interval of a mean of n values with this standard deviation."""
    return float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


def seeds_needed(gap: float, spread: float, n: int) -> int | None:
    """The least number of seeds, above n, whose interval would leave a gap out.

    Args:
        gap: distance of the mean from what it is held against.
        spread: standard deviation over seeds.
        n: seeds so far.

    Returns:
        The number, at the mean and spread seen; None beyond 10,000.
    """
    counts = range(n + 1, 10_001)
    decided = bisect_left(counts, True, key=lambda count: half_width(spread, count) <= gap)
    return counts[decided] if decided < len(counts) else None


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where there are no two different values of each."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    # Without ties it is a fraction of small numbers, which rounding would put below itself.
    return round(float(stats.spearmanr(x, y).statistic), 12)
