import math

import numpy as np
import pytest
import torch
from scipy import stats

from etf_heads.collapse import (
    ClassStatistics,
    error_exponent,
    separation_fuzziness,
    separation_law,
)
from etf_heads.geometry import simplex_etf

pytestmark = pytest.mark.recipes  # SciPy


def test_exponents_agree_with_loops_over_pairs():
    generator = torch.Generator().manual_seed(0)
    w, m, a = (torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    m, bias = m + 2 * w, torch.randn(6, generator=generator).double()
    sigma = (a @ a.T).numpy()
    found = error_exponent(w, m, a @ a.T, bias)
    for k in range(6):
        each = []
        for j in set(range(6)) - {k}:
            v = (w[k] - w[j]).numpy()
            gap = v @ m[k].numpy() + float(bias[k] - bias[j])
            each.append(max(gap, 0) ** 2 / (2 * v @ sigma @ v))
        assert float(found[k]) == pytest.approx(min(each), rel=1e-10)


@pytest.mark.parametrize("turn", [0.0, 0.6])
def test_exponent_of_class_vectors_turned_out_of_the_span(turn):
    etf = simplex_etf(10)
    both = torch.cat([math.cos(turn) * etf, math.sin(turn) * etf], 1)
    means = torch.cat([etf, torch.zeros_like(etf)], 1)
    expected = 10 / 36 * math.cos(turn) ** 2
    assert error_exponent(both, means).tolist() == pytest.approx([expected] * 10)


def test_exponent_of_wrong_decisions_and_wrong_shapes():
    assert error_exponent(torch.eye(3), torch.eye(3)[[1, 0, 2]]).tolist() == [0, 0, 0.25]
    for arguments, message in (
        ((torch.eye(3), torch.eye(4)), r"means has shape \(4, 4\), expected \(3, 3\)"),
        ((torch.eye(3), torch.eye(3), torch.eye(2)), "covariance has shape"),
        ((torch.eye(3), torch.eye(3), None, torch.zeros(2)), "bias has shape"),
        ((torch.ones(1, 3), torch.ones(1, 3)), r"expected \(K, d\) with K >= 2"),
    ):
        with pytest.raises(ValueError, match=message):
            error_exponent(*arguments)


@pytest.mark.parametrize("dim", [3, 8])
def test_fuzziness_agrees_with_dense_matrices(dim):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(5).repeat_interleave(torch.tensor([30, 20, 9, 5, 2]))
    x = torch.randn(66, dim, generator=generator).double() + labels[:, None] ** 2 % 3
    x += torch.randn(5, dim, generator=generator).double()[labels]
    within, between = np.zeros((dim, dim)), np.zeros((dim, dim))
    for k in range(5):
        own = x[labels == k].numpy()
        within += (own - own.mean(0)).T @ (own - own.mean(0))
        shift = own.mean(0) - x.numpy().mean(0)
        between += len(own) * np.outer(shift, shift)
    expected = np.trace(within @ np.linalg.pinv(between, hermitian=True, rcond=1e-10))
    statistics = ClassStatistics.from_batch(x, labels)
    assert separation_fuzziness(statistics) == pytest.approx(expected, rel=1e-8)
    with pytest.raises(ValueError, match="covariance='full'"):
        separation_fuzziness(ClassStatistics.from_batch(x, labels, covariance=False))
    with pytest.raises(ValueError, match="only one class"):
        separation_fuzziness(ClassStatistics.from_batch(x, labels * 0))


def test_law_agrees_with_scipy():
    values = [5.0, 2.1, 1.3, 0.4, 0.22]
    line = stats.linregress(range(5), np.log(values))
    expected = [math.exp(line.slope), math.exp(line.intercept), line.rvalue, line.rvalue**2]
    assert list(separation_law(values).values())[:4] == pytest.approx(expected)
    assert separation_law([1.0, 2.0])["half_life"] == math.inf
    for bad in ([1.0], [1.0, 0.0], [1.0, math.inf]):
        with pytest.raises(ValueError, match="two or more positive finite numbers"):
            separation_law(bad)
