"""Optima under fixed heads: closed forms against SciPy's L-BFGS on the model with W held."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from etf_heads.geometry import compound_etf, simplex_etf
from etf_heads.theory import (
    CrossEntropy,
    Focal,
    JointCounts,
    SquaredError,
    balanced_optimum,
    batch_norm_scale,
    fixed_head_gap,
    fixed_head_optimum,
    logit_gap,
    matched_scale,
    optimal_gram,
)
from etf_heads.theory._losses import losses_of


def brute_force(weight, label_counts, lambda_h, task_weights, losses=None):
    """Objective and logits of the best features, all tuples in one vector."""
    counts = JointCounts.parse(label_counts)
    each = losses_of(counts.tasks, losses)
    n = counts.counts

    def parts(h):
        logits = h @ weight.T
        terms = [
            c * loss(logits[:, rows], counts.labels[:, t])
            for t, (c, loss, rows) in enumerate(
                zip(task_weights, each, counts.tasks.slices, strict=True)
            )
        ]
        return logits, (n / n.sum()) @ sum(terms) + lambda_h * (n @ h.square().sum(1))

    def objective(x):
        h = torch.from_numpy(x).view(len(n), -1).requires_grad_()
        value = parts(h)[1]
        value.backward()
        return value.item(), h.grad.flatten().numpy()

    start = np.random.default_rng(0).normal(size=len(n) * weight.shape[1])
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 0, "gtol": 1e-13}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return found.fun, parts(torch.from_numpy(found.x).view(len(n), -1))[0]


@pytest.mark.parametrize(
    ("sizes", "scales", "weights", "loss"),
    [
        ((5,), (1.0,), (1.0,), None),
        ((2,), (3.0,), (0.5,), None),
        ((4,), (2.0,), (1.0,), CrossEntropy(0.1)),
        ((4,), (2.0,), (2.0,), SquaredError(3.0)),
        ((3, 4), (1.0, 2.0), (1.0, 0.3), None),
    ],
)
def test_gap_of_simplex_and_compound_heads(sizes, scales, weights, loss):
    """Unequal counts change nothing: every tuple is a problem of its own."""
    counts = torch.rand(sizes, generator=torch.Generator().manual_seed(0)).double() * 9 + 1
    lengths = torch.tensor(scales).double().repeat_interleave(torch.tensor(sizes))
    weight = compound_etf(sizes) * lengths[:, None]
    value, logits = brute_force(weight, counts, 1e-3, weights, loss)
    best = fixed_head_optimum(
        weight @ weight.T, counts, 1e-3, task_weights=list(weights), losses=loss
    )
    assert best.objective == pytest.approx(value, rel=1e-10)
    torch.testing.assert_close(best.logits, logits, rtol=0, atol=1e-5)
    n = counts.sum().item()
    for t, (k, s, c) in enumerate(zip(sizes, scales, weights, strict=True)):
        gap = fixed_head_gap(k, s, 1e-3, n, c, loss=loss)
        torch.testing.assert_close(
            best.logit_gaps[:, t], torch.full_like(best.logit_gaps[:, t], gap), rtol=1e-9, atol=0
        )
    features = best.coefficients @ weight
    torch.testing.assert_close(features @ weight.T, best.logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cosine", [-0.7, 0.0, 0.4, 1.0])
def test_two_correlated_binary_tasks(cosine):
    scale, lambda_h, counts = 1.7, 2e-3, torch.tensor([[40.0, 5.0], [5.0, 40.0]])
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    angles = torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64)
    best = fixed_head_optimum(scale**2 * torch.kron(angles, signs), counts, lambda_h)
    for (first, second), gaps in zip(best.counts.labels.tolist(), best.logit_gaps, strict=True):
        sign = 1 if first == second else -1
        a = gaps[0].item()
        assert gaps[1].item() == pytest.approx(a, abs=1e-10)
        stiffness = lambda_h * counts.sum().item() * a
        assert 2 / (math.exp(a) + 1) * scale**2 * (1 + sign * cosine) == pytest.approx(
            stiffness, rel=1e-8, abs=1e-12
        )


@pytest.mark.parametrize("seed", range(3))
def test_any_gram(seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 30, (3, 2, 3), generator=generator).double()
    weight = torch.randn(8, 5, generator=generator).double() * 2
    losses = [CrossEntropy(), CrossEntropy(0.2), SquaredError(2.0)]
    value, logits = brute_force(weight, counts, 1e-4, (1.0, 1.0, 1.0), losses)
    best = fixed_head_optimum(weight @ weight.T, counts, 1e-4, losses=losses)
    assert best.objective == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(best.logits, logits, rtol=0, atol=1e-4)


@given(
    k=st.integers(2, 300),
    share=st.floats(1e-6, 0.99),
    ratio=st.floats(1e-3, 1e3),
    weight=st.floats(0.1, 10),
)
def test_matched_scale_gives_the_learned_gap(k, share, ratio, weight):
    both = math.sqrt(share * weight / (4 * k * 100))
    lambda_w, lambda_h = both * ratio, both / ratio
    scale = matched_scale(k, lambda_w, lambda_h, 100, weight)
    learned = logit_gap(k, lambda_w, lambda_h, 100, weight)
    assert fixed_head_gap(k, scale, lambda_h, 100, weight) == pytest.approx(learned, rel=1e-6)


@pytest.mark.parametrize("loss", [None, CrossEntropy(0.1), SquaredError(2.0)])
def test_matched_head_has_the_learned_heads_features_and_loss(loss):
    learned = balanced_optimum([5], 1e-2, 1e-3, 50, losses=loss)
    scale = matched_scale(5, 1e-2, 1e-3, 50, loss=loss)
    assert learned.class_vectors[0].norm().item() == pytest.approx(scale, rel=1e-12)
    fixed = fixed_head_optimum(learned.gram, torch.full((5,), 10.0), 1e-3, losses=loss)
    decay = 1e-2 * learned.gram.trace().item()
    assert fixed.objective + decay == pytest.approx(learned.objective, rel=1e-12)
    expected = learned.features(torch.arange(5)[:, None]) @ learned.class_vectors.T
    torch.testing.assert_close(fixed.logits, expected, rtol=1e-9, atol=1e-9)


def test_optimal_geometry_is_its_own_fixed_point():
    """Held at the learned optimum of correlated labels, the features stay where they are."""
    counts = torch.tensor([[90.0, 10.0, 20.0], [5.0, 60.0, 15.0]])
    learned = optimal_gram(counts, 1e-3, 1e-3, tolerance=1e-13)
    fixed = fixed_head_optimum(learned.gram, counts, 1e-3)
    right = learned.logits.gather(1, learned.counts.rows)
    torch.testing.assert_close(
        fixed.logits.gather(1, learned.counts.rows), right, rtol=1e-4, atol=0
    )
    decay = 1e-3 * learned.gram.trace().item()
    assert fixed.objective + decay == pytest.approx(learned.objective, rel=1e-9)


def test_batch_norm_scale_gives_the_gap_behind_batch_normalisation():
    """Collapsed features of balanced tuples behind tiled heads, standardised by hand."""
    sizes, d = (5, 5), 40
    frame = torch.cat([simplex_etf(5), simplex_etf(5)]).view(2, 5, -1)[..., :5]
    columns = torch.arange(d) % 10
    weight = torch.zeros(10, d, dtype=torch.float64)
    for t in range(2):
        for k in range(5):
            hit = (columns >= 5 * t) & (columns < 5 * t + 5)
            weight[5 * t + k, hit] = frame[t, k, columns[hit] - 5 * t] / math.sqrt(d / 10)
    labels = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    features = weight[labels[:, 0]] + weight[5 + labels[:, 1]]
    features = (features - features.mean(0)) / features.std(0, correction=0)
    gap = 4.2
    scale = batch_norm_scale(5, gap, d, len(sizes))
    logits = scale * features @ weight[:5].T
    right = logits[torch.arange(25), labels[:, 0]]
    found = right - (logits.sum(1) - right) / 4
    torch.testing.assert_close(found, torch.full_like(found, gap))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fixed_head_gap(5, 0.0, 1e-3, 10), "scale must be a positive number"),
        (lambda: fixed_head_gap(5, 1.0, 1e-3, 10, loss=Focal()), "is not convex"),
        (lambda: matched_scale(10, 1.0, 1.0, 10), "beyond zero_head_threshold.10."),
        (lambda: batch_norm_scale(10, math.inf, 60), "gap must be a positive number"),
        (lambda: batch_norm_scale(10, 4.5, 0), "num_features must be a positive integer"),
        (
            lambda: fixed_head_optimum(torch.eye(4), torch.ones(2, 3), 1e-3),
            r"gram has shape \(4, 4\); expected \(5, 5\)",
        ),
        (lambda: fixed_head_optimum(-torch.eye(3), torch.ones(3), 1e-3), "negative eigenvalue"),
        (
            lambda: fixed_head_optimum(torch.eye(3), torch.ones(3), 1e-3, losses=Focal()),
            "is not convex",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
