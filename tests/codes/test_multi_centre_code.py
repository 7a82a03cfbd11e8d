"""Several centres a class: their geometry, by the formulas and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.codes import MultiCentreCode
from etf_heads.geometry import simplex_gram
from etf_heads.heads import FixedHead, from_spec, to_spec

EXACT = {"rtol": 0, "atol": 1e-13}
any_centres = st.lists(st.integers(1, 6), min_size=2, max_size=7)
any_theta = st.floats(0, math.pi / 2)


@given(centres=any_centres, theta=any_theta)
def test_centres_are_unit_vectors_around_a_simplex_etf(centres, theta):
    code = MultiCentreCode(centres, theta)
    vectors = code.centre_vectors()
    classes = torch.repeat_interleave(torch.tensor(centres))
    # <w_kj, w_li> = cos²θ [same centre] + sin²θ <w_k, w_l>
    simplex = simplex_gram(len(centres))[classes][:, classes]
    same = torch.eye(len(classes), dtype=torch.float64)
    expected = math.cos(theta) ** 2 * same + math.sin(theta) ** 2 * simplex
    torch.testing.assert_close(vectors @ vectors.T, expected, **EXACT)
    assert code.columns == sum(centres) + len(centres) - 1
    if theta < 1.5:
        assert np.linalg.matrix_rank(vectors) == len(classes)


@given(centres=any_centres, theta=any_theta)
def test_class_vectors_are_sums_and_directions_of_centres(centres, theta):
    code, K = MultiCentreCode(centres, theta), len(centres)
    parts = code.centre_vectors().split(centres)
    sums = torch.stack([part.sum(0) for part in parts])
    torch.testing.assert_close(code.matrix(), sums, **EXACT)
    means = torch.stack([part.mean(0) for part in parts])
    sine, cosine = math.sin(theta) ** 2, math.cos(theta) ** 2
    lengths = torch.tensor([sine + cosine / f for f in centres], dtype=torch.float64)
    gram = torch.full((K, K), -sine / (K - 1), dtype=torch.float64)
    gram.diagonal().copy_(lengths)
    torch.testing.assert_close(means @ means.T, gram, **EXACT)
    directions = MultiCentreCode(centres, theta, reduce="direction")
    expected = means / lengths.sqrt()[:, None]
    torch.testing.assert_close(directions.matrix(), expected, **EXACT)


def test_one_centre_a_class_of_angle_pi_half_is_a_simplex_etf():
    matrix = MultiCentreCode([1, 1, 1], math.pi / 2).matrix()
    torch.testing.assert_close(matrix @ matrix.T, simplex_gram(3), **EXACT)


def test_a_head_of_it_is_saved_and_restored():
    head = FixedHead(24, MultiCentreCode([2, 5, 1], 0.3, "direction"), "hadamard")
    twin = from_spec(to_spec(head), 24).to_empty(device="cpu")
    assert twin.code.centres == (2, 5, 1)
    assert torch.equal(twin.weight, head.weight)
    assert not head.state_dict()
    assert "centres=8, theta=0.3, reduce=direction" in repr(head)


def test_bad_input():
    with pytest.raises(ValueError, match=r"centres must list a number of centres a class, got 3"):
        MultiCentreCode(3)
    with pytest.raises(ValueError, match=r"centres\[1\] must be a positive integer, got 0"):
        MultiCentreCode([1, 0])
    with pytest.raises(ValueError, match="the number of classes in centres=1: a task needs at"):
        MultiCentreCode([4])
    for theta in (-0.1, 2.0, float("nan")):
        with pytest.raises(ValueError, match="theta must be from 0 to pi/2, got"):
            MultiCentreCode([1, 2], theta)
    with pytest.raises(ValueError, match="reduce must be 'sum' or 'direction', got 'mean'"):
        MultiCentreCode([1, 2], reduce="mean")
    with pytest.raises(ValueError, match=r"in_features=3 is too small .* 4 needed"):
        FixedHead(3, MultiCentreCode([1, 2]))
