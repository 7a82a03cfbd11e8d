"""Roots of scalar functions, by bisection to the last digit."""

from __future__ import annotations

from collections.abc import Callable


def falling_root(function: Callable[[float], float], low: float) -> float:
    """The root above ``low`` of a function that falls through zero there, infinity excepted."""
    width = 1.0
    while function(low + width) > 0:
        low, width = low + width, 2 * width
    high = low + width
    while True:
        middle = low + (high - low) / 2
        if middle in {low, high}:
            return middle
        if function(middle) > 0:
            low = middle
        else:
            high = middle
