"""The closed forms against their published values, their limits, and the model they minimise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.geometry import simplex_gram
from etf_heads.theory import (
    UnconstrainedFeatureModel,
    balanced_optimum,
    binary_cosine,
    logit_gap,
    mean_loss_lambdas,
    minority_collapse_ratio,
    regression_gram,
    zero_head_threshold,
)

CHECKED = {
    0.6: 0.120989,
    0.7: 0.249040,
    0.8: 0.394651,
    0.9: 0.581874,
    0.95: 0.715314,
    0.99: 0.892188,
}
LAMBDAS = {"lambda_w": 5e-3, "lambda_h": 1e-5, "n": 400}


def at_optimum(model, exact):
    """The model's objective and its largest gradient where the closed form says the minimum is."""
    with torch.no_grad():
        model.weight.copy_(exact.class_vectors)
        model.features.copy_(exact.features(model.counts.labels))
    objective = model()
    objective.backward()
    return objective.item(), max(p.grad.abs().max().item() for p in model.parameters())


@pytest.mark.parametrize(
    ("tasks", "weights"), [([10], [1.0]), ([2, 2], [1.0, 1.0]), ([3, 4, 2], [0.5, 1.0, 4.0])]
)
@pytest.mark.parametrize(("lambda_w", "lambda_h"), [(5e-3, 1e-5), (1e-4, 1e-2)])
def test_balanced_optimum_is_stationary(tasks, weights, lambda_w, lambda_h):
    counts = torch.full(tasks, 3.0)
    n = counts.sum().item()
    dim = sum(tasks) + 2
    exact = balanced_optimum(tasks, lambda_w, lambda_h, n, dim=dim, task_weights=weights)
    assert exact.logit_gaps.min() > 0
    model = UnconstrainedFeatureModel(counts, lambda_w, lambda_h, dim=dim, task_weights=weights)
    objective, slope = at_optimum(model, exact)
    assert objective == pytest.approx(exact.objective, rel=1e-13)
    assert slope < 1e-14


def test_balanced_tasks_are_orthogonal_simplex_etfs():
    exact = balanced_optimum({"a": 4, "b": 3}, 5e-3, 1e-5, 1200)
    assert exact.gram[:4, 4:].abs().max() < 1e-12
    for rows, size in ((slice(0, 4), 4), (slice(4, 7), 3)):
        block = exact.gram[rows, rows]
        torch.testing.assert_close(block / block[0, 0], simplex_gram(size))


def test_task_weights_go_by_name():
    by_name = balanced_optimum(
        {"a": 4, "b": 3}, 5e-3, 1e-5, 1200, task_weights={"b": 3.0, "a": 1.0}
    )
    in_order = balanced_optimum([4, 3], 5e-3, 1e-5, 1200, task_weights=torch.tensor([1.0, 3.0]))
    assert torch.equal(by_name.gram, in_order.gram)


@given(k=st.integers(2, 1000), weight=st.floats(0.01, 100))
def test_logit_gap_opens_at_the_threshold(k, weight):
    threshold = zero_head_threshold(k, weight)
    assert logit_gap(k, threshold * 1.0001, 1.0, 1.0, weight) == 0
    just_below = logit_gap(k, threshold * 0.9999, 1.0, 1.0, weight)
    assert 0 < just_below < 1e-4 * k


def test_sum_loss_convention():
    """Ten balanced classes under the summed loss: the head is zero from λ_W λ_H = N / 4K on."""
    n = 1000
    for factor, is_zero in ((0.999, False), (1.001, True)):
        product = factor * n / 40
        gap = logit_gap(10, *mean_loss_lambdas(product / 7, 7.0, n), n)
        assert (gap == 0) == is_zero


@pytest.mark.parametrize("p", CHECKED)
def test_binary_cosine_check_values(p):
    assert binary_cosine(p, **LAMBDAS) == pytest.approx(CHECKED[p], abs=1e-6)


@given(strength=st.floats(1e-8, 0.2), power=st.integers(-10, 10))
def test_binary_cosine_is_monotone_odd_and_depends_on_the_product_alone(strength, power):
    p = torch.arange(1025, dtype=torch.float64) / 1024  # p and 1 - p both exact
    cosine = binary_cosine(p, strength * 2.0**power, 2.0**-power, 1.0)
    defined = cosine[~cosine.isnan()]
    assert (defined.diff() >= 0).all()
    assert (defined.abs() <= 1).all()
    assert torch.equal(cosine.isnan(), torch.maximum(p, 1 - p) <= 4 * strength)
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(cosine, -cosine.flip(0), **exactly)
    torch.testing.assert_close(cosine, binary_cosine(p, strength, 1.0, 1.0), **exactly)


def test_binary_cosine_joins_the_merged_regime_continuously():
    strength = 0.02
    edge = 1 - 4 * strength  # where g_b = 1/2
    assert binary_cosine(edge, strength, 1.0, 1.0) == pytest.approx(1, abs=1e-12)
    assert binary_cosine(edge + 1e-3, strength, 1.0, 1.0) == 1
    for distance in (1e-3, 1e-5, 1e-7):
        below = binary_cosine(edge - distance, strength, 1.0, 1.0)
        assert 0 < 1 - below < 20 * distance


def test_binary_cosine_at_the_ends():
    assert binary_cosine(1.0, **LAMBDAS) == 1
    assert binary_cosine(0.0, **LAMBDAS) == -1
    assert binary_cosine(0.5, **LAMBDAS) == 0
    assert math.isnan(binary_cosine(0.5, 1.0, 1.0, 1.0))


def test_binary_cosine_without_regularisation():
    p = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    limit = (p.sqrt() - (1 - p).sqrt()) / (p.sqrt() + (1 - p).sqrt())
    # The approach is logarithmic, hence λ's that no one would train with.
    errors = [
        (binary_cosine(p, 10.0**-k, 10.0**-k, 1.0) - limit).abs().max().item()
        for k in (10, 50, 100)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 3e-3


def test_minority_collapse_ratio_is_one_where_the_balanced_head_vanishes():
    for major, minor in ((1, 2), (5, 5), (3, 17)):
        strength = zero_head_threshold(major + minor)
        assert minority_collapse_ratio(major, minor, strength, 1.0, 1.0) == pytest.approx(1)


@pytest.mark.parametrize(("lambda_w", "lambda_h"), [(1e-2, 1e-2), (0.3, 1.0), (1.0, 0.05)])
def test_regression_gram_minimises_the_regression_model(lambda_w, lambda_h):
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    targets = mix @ torch.randn(3, 40, generator=generator, dtype=torch.float64)
    samples = targets.shape[1]
    centred = targets - targets.mean(1, keepdim=True)
    W = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    H = torch.randn(4, samples, generator=generator, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [W, H],
        max_iter=2000,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        residual = W @ H - centred
        residual = residual - residual.mean(1, keepdim=True)  # the best b
        loss = (residual.square().sum() + lambda_h * H.square().sum()) / (2 * samples)
        loss = loss + lambda_w / 2 * W.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    gram = regression_gram(torch.cov(targets, correction=0), lambda_w, lambda_h)
    torch.testing.assert_close((W @ W.T).detach(), gram, rtol=0, atol=1e-6)


def test_regression_gram_gives_up_weak_directions():
    gram = regression_gram(torch.diag(torch.tensor([4.0, 0.01])), 0.1, 0.1)
    assert torch.linalg.matrix_rank(gram) == 1
    assert regression_gram(torch.eye(2), 1.0, 2.0).abs().max() == 0


def test_regression_gram_takes_the_round_off_of_a_float32_covariance():
    targets = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 50)
    covariance = torch.cov(targets, correction=0)  # rank 3, eigenvalues around zero
    assert regression_gram(covariance, 1e-3, 1e-3).isfinite().all()
