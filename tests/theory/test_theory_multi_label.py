"""Sets of labels, and the unit sphere: closed forms against SciPy's L-BFGS."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from etf_heads.theory import multi_label_optimum, sphere_optimum, unit_scale


def label_sets(k, samples):
    sets = [s for m in samples for s in combinations(range(k), m)]
    hot = torch.zeros(len(sets), k, dtype=torch.float64)
    for row, members in enumerate(sets):
        hot[row, list(members)] = 1
    return hot, torch.tensor([float(samples[len(s)]) for s in sets], dtype=torch.float64)


def brute_force(k, samples, lambda_w, lambda_h, over_labels):
    hot, n = label_sets(k, samples)
    shares = n / n.sum()

    def parts(x):
        both = torch.from_numpy(x).view(k + len(hot), k)
        return both[:k], both[k:]

    def objective(x):
        W, H = (part.clone().requires_grad_() for part in parts(x))
        losses = -(hot * (H @ W.T).log_softmax(1)).sum(1)
        if over_labels == "mean":
            losses = losses / hot.sum(1)
        value = shares @ losses + lambda_h * (n @ H.square().sum(1)) + lambda_w * W.square().sum()
        value.backward()
        return value.item(), torch.cat([W.grad, H.grad]).flatten().numpy()

    start = np.random.default_rng(0).normal(size=(k + len(hot)) * k) * 0.5
    options = {"maxiter": 30000, "maxfun": 60000, "maxcor": 30, "ftol": 0, "gtol": 1e-12}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    W, H = parts(found.x)
    return found.fun, W, H, hot


@pytest.mark.parametrize(
    ("k", "samples", "over_labels"),
    [
        (4, {1: 10, 2: 10}, "sum"),
        (5, {1: 20, 2: 5, 3: 2}, "sum"),
        (5, {1: 20, 2: 5, 3: 2}, "mean"),
        (4, {2: 3, 3: 7}, "mean"),
        (3, {1: 10}, "sum"),
    ],
)
def test_equals_descent(k, samples, over_labels):
    lambda_w, lambda_h = 2e-3, 2e-4
    value, W, H, hot = brute_force(k, samples, lambda_w, lambda_h, over_labels)
    best = multi_label_optimum(k, samples, lambda_w, lambda_h, over_labels)
    assert best.objective == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(W @ W.T, best.gram, rtol=0, atol=1e-5 * best.gram.max())
    stated = best.features(hot)
    torch.testing.assert_close(
        H @ H.T, stated @ stated.T, rtol=0, atol=1e-4 * (stated @ stated.T).max()
    )
    logits = stated @ best.class_vectors.T
    for row, members in zip(logits, hot.bool(), strict=True):
        m = int(members.sum())
        gap = row[members].mean() - row[~members].mean()
        assert gap.item() == pytest.approx(best.logit_gaps[m], rel=1e-9)


def test_check_values():
    best = multi_label_optimum(4, {1: 10, 2: 10}, 2e-3, 2e-4)
    assert best.logit_gaps == pytest.approx({1: 5.059642, 2: 4.493008}, abs=1e-6)
    assert best.objective == pytest.approx(0.950141608, abs=1e-9)
    assert best.tag_scales == pytest.approx({1: 1.0, 2: 2 * 4.493008 / 5.059642}, abs=1e-6)
    divided = multi_label_optimum(5, {1: 20, 2: 5, 3: 2}, 1e-3, 1e-4, "mean")
    assert divided.logit_gaps == pytest.approx({1: 5.559409, 2: 4.403341, 3: 3.754516}, abs=1e-6)


@pytest.mark.parametrize("over_labels", ["sum", "mean"])
def test_zero_head(over_labels):
    samples = {1: 6.0, 2: 3.0}
    divisor = 4 if over_labels == "mean" else 1
    n = 4 * 6 + 6 * 3
    threshold = (math.sqrt(6 + 2 * 3 / divisor) / (2 * n)) ** 2  # of λ_W λ_H
    beyond = multi_label_optimum(4, samples, threshold * 1.0001, 1.0, over_labels)
    assert set(beyond.logit_gaps.values()) == {0.0}
    assert beyond.gram.abs().max() == 0
    assert beyond.features(torch.eye(4)).abs().max() == 0
    below = multi_label_optimum(4, samples, threshold * 0.9999, 1.0, over_labels)
    assert 0 < below.logit_gaps[1] < 0.01


@pytest.mark.parametrize(("k", "d"), [(2, 1), (4, 3), (5, 8)])
@pytest.mark.parametrize("scale", [0.3, 3.0, 12.0])
def test_sphere_optimum_equals_descent(k, d, scale):
    def objective(x):
        both = torch.from_numpy(x).view(2 * k, d).requires_grad_()
        unit = both / both.norm(dim=1, keepdim=True)
        logits = scale * unit[k:] @ unit[:k].T
        value = torch.nn.functional.cross_entropy(logits, torch.arange(k))
        value.backward()
        return value.item(), both.grad.flatten().numpy()

    values = [
        minimize(
            objective,
            np.random.default_rng(seed).normal(size=2 * k * d),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 0, "gtol": 1e-12, "maxiter": 5000},
        ).fun
        for seed in range(8)
    ]
    best = sphere_optimum(k, scale)
    assert min(values) == pytest.approx(best.loss, rel=1e-7)
    assert best.loss == pytest.approx(-math.log(best.probability))


@pytest.mark.parametrize(("k", "scale"), [(10, 6.11), (20, 7.16), (100, 9.10)])
def test_unit_scale(k, scale):
    assert unit_scale(k, 0.99) == pytest.approx(scale, abs=0.01)
    assert sphere_optimum(k, unit_scale(k, 0.7)).probability == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multi_label_optimum(4, {}, 1e-3, 1e-3), "samples is empty"),
        (lambda: multi_label_optimum(4, {4: 1}, 1e-3, 1e-3), "sets of 4 labels of 4 classes"),
        (lambda: multi_label_optimum(4, {0: 1}, 1e-3, 1e-3), "a key of samples must be a positive"),
        (lambda: multi_label_optimum(4, {1: 0}, 1e-3, 1e-3), r"samples\[1\] must be a positive"),
        (lambda: multi_label_optimum(4, {1: 1}, 1e-3, 1e-3, "all"), "'sum' or 'mean', got 'all'"),
        (lambda: multi_label_optimum(4, {1: 1}, 0.0, 1e-3), "lambda_w must be a positive number"),
        (
            lambda: multi_label_optimum(4, {1: 1}, 1e-3, 1e-3).features(torch.ones(2, 3)),
            r"labels has shape \(2, 3\)",
        ),
        (
            lambda: multi_label_optimum(4, {1: 1}, 1e-3, 1e-3).features(torch.ones(2, 4)),
            r"sets of \[4\] labels; the optimum is that of sets of \[1\]",
        ),
        (lambda: sphere_optimum(10, 0.0), "scale must be a positive number"),
        (lambda: unit_scale(10, 0.1), "probability=0.1 must lie between 1/K = 0.1"),
        (lambda: unit_scale(10, 1.0), "probability=1.0 must lie between"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
