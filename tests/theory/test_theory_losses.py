"""Label smoothing, focal loss and squared error: stated gaps against descent and torch's losses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from torch.nn import functional as F

from etf_heads.theory import (
    CrossEntropy,
    Focal,
    SquaredError,
    UnconstrainedFeatureModel,
    balanced_optimum,
    logit_gap,
    zero_head_threshold,
)

LOSSES = [CrossEntropy(), CrossEntropy(0.1), Focal(1.0), Focal(2.0), Focal(5.0), SquaredError(2.0)]
LAMBDAS = {"lambda_w": 5e-3, "lambda_h": 1e-5, "n": 400}
ALL = pytest.mark.parametrize("loss", LOSSES, ids=str)


def descend(model, seed=0):
    """Least objective by SciPy's L-BFGS, and the model there."""
    parameters = list(model.parameters())

    def objective(x):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(x), parameters)
        model.zero_grad()
        value = model()
        value.backward()
        return value.item(), torch.cat([p.grad.flatten() for p in parameters]).numpy()

    size = sum(p.numel() for p in parameters)
    start = np.random.default_rng(seed).normal(size=size)
    options = {"maxiter": 20000, "maxfun": 40000, "maxcor": 30, "ftol": 0, "gtol": 1e-12}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(found.x), parameters)
    return found.fun


@pytest.mark.parametrize(
    ("loss", "gap"),
    [
        (CrossEntropy(), 5.842249),
        (CrossEntropy(0.1), 4.233409),
        (Focal(1.0), 4.242434),
        (Focal(2.0), 3.526055),
        (Focal(3.0), 3.083991),
        (SquaredError(1.0), 0.971716),
    ],
)
def test_check_values(loss, gap):
    assert logit_gap(10, **LAMBDAS, loss=loss) == pytest.approx(gap, abs=1e-6)


@pytest.mark.parametrize(
    ("gamma", "ten", "hundred"), [(1, 1.1303, 1.0491), (2, 1.2245, 1.1157), (3, 1.2885, 1.1752)]
)
def test_focal_thresholds(gamma, ten, hundred):
    assert Focal(gamma).zero_price(10) * 10 == pytest.approx(ten, abs=1e-4)
    assert Focal(gamma).zero_price(100) * 100 == pytest.approx(hundred, abs=1e-4)


@given(k=st.integers(2, 1000), price=st.floats(1e-6, 0.6))
def test_focal_loss_without_focus_is_cross_entropy(k, price):
    assert Focal(0.0).gap(k, price) == pytest.approx(CrossEntropy().gap(k, price), abs=1e-9)
    assert Focal(0.0).zero_price(k) == pytest.approx(1 / k)


@ALL
@given(k=st.integers(2, 200), share=st.floats(0.01, 1.2))
def test_gap_is_the_global_minimum(loss, k, share):
    """Of the one-dimensional problem, on a fine grid polished by SciPy."""
    price = share * loss.zero_price(k)

    def objective(a):
        return loss.value(k, a) + (k - 1) * price * a

    grid = np.linspace(0, 30, 3001)
    best = grid[np.argmin([objective(a) for a in grid])]
    polished = minimize_scalar(
        objective, bounds=(max(0, best - 0.01), best + 0.01), method="bounded"
    ).fun
    assert objective(loss.gap(k, price)) <= min(polished, objective(0.0)) + 1e-12


@ALL
@given(k=st.integers(2, 1000))
def test_gap_opens_at_the_threshold(loss, k):
    threshold = zero_head_threshold(k, 2.0, loss=loss)
    assert logit_gap(k, threshold * 1.0001, 1.0, 1.0, 2.0, loss=loss) == 0
    assert logit_gap(k, threshold * 0.9999, 1.0, 1.0, 2.0, loss=loss) > 0


def test_focal_gap_jumps_with_many_classes():
    below = logit_gap(100, zero_head_threshold(100, loss=Focal()) * 0.9999, 1, 1, loss=Focal())
    assert below > 1
    assert logit_gap(2, zero_head_threshold(2, loss=Focal()) * 0.9999, 1, 1, loss=Focal()) < 0.1


@ALL
@given(k=st.integers(2, 20), gap=st.floats(0.0, 15.0), seed=st.integers(0, 99))
def test_least_loss_of_a_gap(loss, k, gap, seed):
    """φ(a) is attained at equal wrong logits, and is below every other vector of that gap."""
    logits = torch.randn(k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    logits[0] = logits[1:].mean() + gap
    label = torch.tensor(0)
    flat = torch.zeros(k, dtype=torch.float64)
    flat[0] = gap
    flat -= flat.mean()
    assert loss(flat, label).item() == pytest.approx(loss.value(k, gap), rel=1e-9, abs=1e-12)
    assert loss(logits, label).item() >= loss.value(k, gap) - 1e-12
    step = 1e-5
    slope = (loss.value(k, gap) - loss.value(k, gap + step)) / step
    assert loss.slope(k, gap + step / 2) == pytest.approx(slope, abs=1e-6)


def test_losses_are_those_of_torch():
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 5
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            CrossEntropy(smoothing)(logits, labels),
            F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none"),
        )
    right = logits.softmax(1)[range(6), labels]
    torch.testing.assert_close(Focal(2.0)(logits, labels), -((1 - right) ** 2) * right.log())
    targets = 3 * (F.one_hot(labels, 5) - 0.2).double()
    torch.testing.assert_close(
        SquaredError(3.0)(logits, labels), (logits - targets).square().sum(1) / 2
    )


@pytest.mark.parametrize(
    ("tasks", "weights", "losses"),
    [
        ([4], [1.0], CrossEntropy(0.1)),
        ([5], [2.0], Focal(2.0)),
        ([4], [1.0], SquaredError(1.5)),
        ([3, 4], [1.0, 2.0], [SquaredError(1.0), CrossEntropy(0.05)]),
        ([3, 2], [1.0, 2.0], [Focal(2.0), CrossEntropy()]),
    ],
)
def test_equals_descent(tasks, weights, losses):
    counts = torch.full(tasks, 3.0)
    n = counts.sum().item()
    exact = balanced_optimum(tasks, 1e-2, 1e-3, n, task_weights=weights, losses=losses)
    models = [
        UnconstrainedFeatureModel(
            counts, 1e-2, 1e-3, dim=sum(tasks), task_weights=weights, losses=losses
        )
        for _ in range(3)
    ]
    values = [descend(model, seed) for seed, model in enumerate(models)]
    best = models[int(np.argmin(values))]
    assert min(values) == pytest.approx(exact.objective, rel=1e-9)
    torch.testing.assert_close(best.gram(), exact.gram, rtol=0, atol=1e-6 * exact.gram.max())


def test_squared_error_with_a_free_bias_ends_in_the_same_gap():
    """Targets κ e_k and free biases, by hand."""
    k, n_each, lambda_w, lambda_h, target = 4, 3.0, 1e-2, 1e-3, 1.0
    n = k * n_each

    def objective(x):
        parts = torch.from_numpy(x).requires_grad_()
        W, H, b = parts[: k * k].view(k, k), parts[k * k : 2 * k * k].view(k, k), parts[-k:]
        errors = H @ W.T + b - target * torch.eye(k, dtype=torch.float64)
        value = errors.square().sum() / (2 * k)
        value = value + lambda_h * n_each * H.square().sum() + lambda_w * W.square().sum()
        value.backward()
        return value.item(), parts.grad.numpy()

    start = np.random.default_rng(0).normal(size=2 * k * k + k)
    options = {"ftol": 0, "gtol": 1e-12, "maxiter": 10000}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    logits = found[k * k : 2 * k * k].reshape(k, k) @ found[: k * k].reshape(k, k).T
    gap = logits[0, 0] - logits[0, 1:].mean()
    stated = logit_gap(k, lambda_w, lambda_h, n, loss=SquaredError(target))
    assert gap == pytest.approx(stated, abs=1e-6)


def test_smoothed_gap_without_regularisation():
    assert CrossEntropy(0.1).gap(10, 0.0) == pytest.approx(math.log(91), rel=1e-12)
    assert CrossEntropy().gap(10, 0.0) == Focal().gap(10, 0.0) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CrossEntropy(1.0), r"label_smoothing=1.0 must be in \[0, 1\)"),
        (lambda: CrossEntropy(-0.1), "label_smoothing=-0.1"),
        (lambda: Focal(-1.0), "gamma must be zero or a positive number, got -1.0"),
        (lambda: SquaredError(0.0), "target must be a positive number, got 0.0"),
        (
            lambda: balanced_optimum([3, 4], 1e-3, 1e-3, 12, losses=[CrossEntropy()]),
            "losses has 1 entries for 2 tasks",
        ),
        (
            lambda: balanced_optimum([3, 4], 1e-3, 1e-3, 12, losses=[CrossEntropy(), "ce"]),
            r"losses\[1\] must be a CrossEntropy, Focal or SquaredError.*got 'ce'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
