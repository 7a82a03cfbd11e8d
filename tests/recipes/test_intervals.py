"""Intervals and rank correlations."""

import math

import pytest

from recipes.intervals import interval, rank_correlation


@pytest.mark.parametrize(
    ("order", "expected"),
    [((1, 2, 3, 4), 1.0), ((1, 2, 4, 3), 0.8), ((4, 3, 2, 1), -1.0), ((4, 3, 1, 2), -0.8)],
)
def test_rank_correlations_of_a_few_numbers_are_exact(order, expected):
    """1 - 6 sum d^2 / (n (n^2 - 1)): a criterion at a threshold of 0.8 is met by 0.8."""
    assert rank_correlation((10, 20, 30, 40), order) == expected


def test_there_is_no_rank_correlation_with_a_constant():
    assert math.isnan(rank_correlation((1, 1, 1), (1, 2, 3)))
    assert math.isnan(rank_correlation((), ()))


def test_equal_values_have_no_spread():
    found = interval([0.8, 0.8, 0.8])
    assert (found.mean, found.half, found.n) == (0.8, 0.0, 3)
