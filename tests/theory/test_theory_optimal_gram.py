"""The convex solver against brute force, the closed forms, and itself with labels renamed."""

import math
import resource
import time
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import one_hot

from etf_heads.theory import (
    JointCounts,
    UnconstrainedFeatureModel,
    _feature_hessians,
    balanced_optimum,
    binary_cosine,
    logit_gap,
    minority_collapse_ratio,
    optimal_gram,
    zero_head_threshold,
)


def brute_force(counts, lambda_w, lambda_h, task_weights, seed):
    """The model as the paper writes it, W and H as they are, by SciPy's L-BFGS.

    Returns the objective and the class vectors' Gram matrix.
    """
    sizes, total = counts.shape, sum(counts.shape)
    labels = np.argwhere(counts > 0)
    groups = len(labels)
    n = torch.tensor(counts[counts > 0])[:, None]
    share = n / n.sum()
    c = torch.tensor(np.repeat(task_weights, sizes))
    targets = torch.cat(
        [one_hot(torch.tensor(y), k) for y, k in zip(labels.T, sizes, strict=True)], dim=1
    )
    # Any rescaling of W and H is allowed in the search; this one balances their curvature.
    unit = (lambda_h * n.sum().item() / lambda_w) ** 0.25

    def parts(x):
        W, H = torch.from_numpy(x).reshape(total + groups, total).split([total, groups])
        return W * unit, H / unit

    def objective(x):
        W, H = parts(x)
        logp = torch.cat([z.log_softmax(1) for z in (H @ W.T).split(sizes, 1)], 1)
        value = -(share * c * targets * logp).sum()
        value += lambda_h * (n * H**2).sum() + lambda_w * (c[:, None] * W**2).sum()
        dZ = share * c * (logp.exp() - targets)
        dW = dZ.T @ H + 2 * lambda_w * c[:, None] * W
        dH = dZ @ W + 2 * lambda_h * n * H
        return value.item(), torch.cat([dW * unit, dH / unit]).flatten().numpy()

    start = np.random.default_rng(seed).normal(size=(total + groups) * total) * 0.5
    options = {"maxiter": 20000, "maxfun": 40000, "maxcor": 30, "ftol": 0, "gtol": 1e-11}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    W, _ = parts(found.x)
    return found.fun, W @ W.T


LARGE = {5, 7, 8, 9, 10, 11, 13, 15, 17, 22, 23}
"""Random problems on which brute force takes seconds; the others have 1 to 4 tasks too."""


def random_problem(seed):
    """1 to 4 tasks of 2 to 10 classes (fewer when there are many tasks), a fifth of counts zero."""
    rng = np.random.default_rng(seed)
    num_tasks = seed % 4 + 1
    sizes = tuple(rng.integers(2, {1: 11, 2: 11, 3: 5, 4: 4}[num_tasks], size=num_tasks))
    counts = rng.integers(1, 60, size=sizes) * (rng.random(sizes) > 0.2 * (num_tasks > 1))
    while not all(
        np.moveaxis(counts, t, 0).reshape(sizes[t], -1).any(1).all() for t in range(num_tasks)
    ):
        counts = rng.integers(1, 60, size=sizes)
    task_weights = rng.choice([0.5, 1.0, 2.0], size=num_tasks)
    strength = 10 ** rng.uniform(-2.0, -0.3)  # 2 sqrt(λ_W λ_H N), decides the geometry
    ratio = 10 ** rng.uniform(-2, 2)
    product = strength / (2 * math.sqrt(counts.sum()))
    return counts.astype(float), product * ratio, product / ratio, task_weights


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=pytest.mark.slow if s in LARGE else ()) for s in range(24)]
)
def test_equals_brute_force(seed):
    counts, lambda_w, lambda_h, weights = random_problem(seed)
    best = optimal_gram(
        torch.tensor(counts), lambda_w, lambda_h, torch.tensor(weights), tolerance=1e-12
    )
    assert best.duality_gap <= 1e-12
    values, grams = zip(
        *(brute_force(counts, lambda_w, lambda_h, weights, start) for start in range(3)),
        strict=True,
    )
    reached = int(np.argmin(values))
    assert best.objective == pytest.approx(values[reached], rel=1e-9)
    difference = (best.gram - grams[reached]).abs().max()
    assert difference <= 1e-6 * max(grams[reached].abs().max(), 1e-3)


def test_zero_counts_occur_among_the_random_problems():
    assert sum((random_problem(seed)[0] == 0).any() for seed in range(24)) >= 10


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [((2,), [1.0]), ((10,), [0.3]), ((4, 7), [1.0, 2.5]), ((2, 3, 5), [1.0, 0.2, 3.0])],
)
@pytest.mark.parametrize("product", [1e-8, 1e-5, 2e-3])
def test_equals_balanced_closed_form(sizes, weights, product):
    lambda_w, lambda_h = math.sqrt(product) * 3, math.sqrt(product) / 3
    counts = torch.full(sizes, 2.0)
    exact = balanced_optimum(sizes, lambda_w, lambda_h, counts.sum().item(), task_weights=weights)
    best = optimal_gram(counts, lambda_w, lambda_h, weights, tolerance=1e-13)
    assert best.objective == pytest.approx(exact.objective, rel=1e-11)
    # Gaps end in the last digit of the objective, and vectors agree to its square root.
    torch.testing.assert_close(best.gram, exact.gram, rtol=0, atol=best.gram_error)
    logits = exact.features(best.counts.labels) @ exact.class_vectors.T
    torch.testing.assert_close(best.logits, logits, rtol=3e-6, atol=1e-9)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.6, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("strength", [2e-5, 2e-3, 0.05])
def test_equals_correlated_binary_closed_form(p, strength):
    n, lambda_w = 400, 5e-3
    lambda_h = strength / (lambda_w * n)
    counts = n / 2 * torch.tensor([[p, 1 - p], [1 - p, p]], dtype=torch.float64)
    best = optimal_gram(counts, lambda_w, lambda_h, tolerance=1e-12)
    cosine = best.cosines()[0, 2].item()
    assert cosine == pytest.approx(binary_cosine(p, lambda_w, lambda_h, n), abs=1e-6)


def test_two_tasks_with_the_same_labels_share_their_class_vectors():
    """Then both are one task of twice the weight, and λ_W λ_H counts half."""
    best = optimal_gram(torch.eye(7) * 10, 1e-3, 1e-3, tolerance=1e-12)
    torch.testing.assert_close(best.gram[:7, :7], best.gram[:7, 7:], rtol=0, atol=1e-12)
    assert best.rank == 6
    gap = best.logits[0, 0] - best.logits[0, 1]
    assert gap.item() == pytest.approx(logit_gap(7, 1e-3, 0.5e-3, 70), rel=1e-6)


HARD = {
    "long tail": torch.logspace(0, 8, 10),
    "long tails": torch.logspace(0, 6, 10)[:, None] * torch.logspace(0, 6, 10),
    "two classes, one rare": torch.tensor([1.0, 1e6]),
    "labels that determine each other": torch.eye(10)[:, :, None] * torch.eye(10)[:, None, :],
    "at the edge of the zero head": torch.ones(6),  # for the strength 1/sqrt(6)
    "ten tasks": torch.rand((2,) * 10, generator=torch.Generator().manual_seed(0)) ** 6,
}


@pytest.mark.parametrize("strength", [0.5, 6**-0.5 * (1 - 1e-6), 6**-0.5, 0.1, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("counts", HARD.values(), ids=HARD)
def test_hard_problems_are_certified(counts, strength):
    product = strength / 2 / math.sqrt(counts.double().sum())
    best = optimal_gram(counts, product, product)
    assert best.duality_gap <= 1e-11
    assert best.iterations < 60


def test_zero_head_is_certified_at_once():
    counts = torch.tensor([[3.0, 1.0], [2.0, 5.0]])
    best = optimal_gram(counts, 1.0, 1.0)
    assert best.gram.abs().max() == 0
    assert best.rank == 0
    assert best.iterations == 0
    assert best.objective == pytest.approx(2 * math.log(2), rel=1e-15)


def test_lower_bound_holds_however_early_the_solver_stops():
    counts, lambda_w, lambda_h, weights = random_problem(7)
    problem = torch.tensor(counts), lambda_w, lambda_h, torch.tensor(weights)
    minimum = optimal_gram(*problem, tolerance=1e-12).objective
    for iterations in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            early = optimal_gram(*problem, tolerance=1e-12, max_iterations=iterations)
        assert early.duality_gap > 1e-8
        assert early.objective * (1 - early.duality_gap) <= minimum <= early.objective


def test_warns_when_stopped_early():
    counts, lambda_w, lambda_h, _ = random_problem(7)
    with pytest.warns(RuntimeWarning, match="above tolerance=1e-11, after 1 iterations"):
        optimal_gram(torch.tensor(counts), lambda_w, lambda_h, max_iterations=1)


def test_logits_attain_the_convex_objective():
    """The nuclear norm itself, not its factored form."""
    counts, lambda_w, lambda_h, weights = random_problem(6)
    best = optimal_gram(torch.tensor(counts), lambda_w, lambda_h, torch.tensor(weights))
    n, c = best.counts.counts, torch.tensor(weights)
    tasks = best.counts.tasks
    scaled = (
        best.logits.T * n.sqrt() * c.repeat_interleave(torch.tensor(tasks.sizes)).sqrt()[:, None]
    )
    value = 2 * math.sqrt(lambda_w * lambda_h) * torch.linalg.matrix_norm(scaled, "nuc")
    for t, rows in enumerate(tasks.slices):
        losses = torch.nn.functional.cross_entropy(
            best.logits[:, rows], best.counts.labels[:, t], reduction="none"
        )
        value += c[t] * (n * losses).sum() / n.sum()
    assert value.item() == pytest.approx(best.objective, rel=1e-9)


def test_task_order_and_class_names_do_not_matter():
    counts, lambda_w, lambda_h, _ = random_problem(10)
    weights = torch.tensor([0.5, 1.0, 2.0])
    best = optimal_gram(torch.tensor(counts), lambda_w, lambda_h, weights, tolerance=1e-12)
    rng = np.random.default_rng(0)
    order = [2, 0, 1]
    names = [rng.permutation(size) for size in counts.shape]
    renamed = counts[np.ix_(*names)].transpose(order)
    other = optimal_gram(torch.tensor(renamed), lambda_w, lambda_h, weights[order], tolerance=1e-12)
    starts = np.cumsum([0, *counts.shape])
    rows = np.concatenate([starts[t] + names[t] for t in order])
    torch.testing.assert_close(other.gram, best.gram[rows][:, rows], rtol=1e-7, atol=1e-8)


def test_dense_and_sparse_counts_agree():
    counts, lambda_w, lambda_h, _ = random_problem(6)
    dense = optimal_gram(torch.tensor(counts), lambda_w, lambda_h)
    labels = np.repeat(np.argwhere(counts > 0), counts[counts > 0].astype(int), axis=0)
    shuffled = torch.tensor(np.random.default_rng(1).permutation(labels))
    sparse = optimal_gram(JointCounts.from_labels(shuffled, counts.shape), lambda_w, lambda_h)
    torch.testing.assert_close(sparse.gram, dense.gram, rtol=1e-12, atol=1e-12)


def test_gradient_descent_reaches_the_certified_minimum():
    counts = torch.tensor([[9.0, 1.0, 3.0], [2.0, 8.0, 0.0]])
    best = optimal_gram(counts, 2e-2, 1e-2, [1.0, 2.0], tolerance=1e-13)
    model = UnconstrainedFeatureModel(
        counts, 2e-2, 1e-2, task_weights=[1.0, 2.0], generator=torch.Generator().manual_seed(0)
    )
    optimiser = torch.optim.LBFGS(
        model.parameters(),
        max_iter=2000,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        objective = model()
        objective.backward()
        return objective

    optimiser.step(closure)
    assert model().item() == pytest.approx(best.objective, rel=1e-9)
    torch.testing.assert_close(model.gram(), best.gram, rtol=0, atol=1e-6)


def test_minority_collapse_threshold_by_bisection():
    """Solve at many imbalances and find where the rare classes part: the closed form's place."""
    major, minor, n, lambda_w, lambda_h = 3, 4, 700.0, 2e-3, 1e-2

    def rare_cosine(ratio):
        rare = n / (major * ratio + minor)
        counts = torch.tensor([ratio * rare] * major + [rare] * minor, dtype=torch.float64)
        best = optimal_gram(counts, lambda_w, lambda_h, tolerance=1e-11)
        return best.cosines()[major, major + 1].item()

    low, high = 1.0, 100.0
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rare_cosine(middle) > 1 - 1e-5 else (middle, high)
    exact = minority_collapse_ratio(major, minor, lambda_w, lambda_h, n)
    assert low == pytest.approx(exact, rel=1e-3)
    assert rare_cosine(1.0) == pytest.approx(-1 / 6, abs=1e-6)


@pytest.mark.parametrize("seed", range(24))
def test_gram_error_covers_the_error(seed):
    counts, lambda_w, lambda_h, weights = random_problem(seed)
    problem = torch.tensor(counts), lambda_w, lambda_h, torch.tensor(weights)
    minimum = optimal_gram(*problem, tolerance=1e-13).gram
    for tolerance in (1e-3, 1e-5, 1e-7):
        early = optimal_gram(*problem, tolerance=tolerance)
        assert (early.gram - minimum).abs().max() <= early.gram_error + 1e-12


def test_a_task_beyond_its_threshold_is_exactly_zero():
    """Six classes at 1.05 times the λ_H from which their head is zero, two classes below it."""
    lambda_h = 1.05 * zero_head_threshold(6) / 1e-2 / 2400
    counts = torch.tensor([[300.0] * 6, [100.0] * 6])
    best = optimal_gram(counts, 1e-2, lambda_h)
    assert best.gram[:2, :2].diagonal().min() > 0.01
    assert best.gram[2:, 2:].abs().max() < 1e-20
    assert best.rank == 1


def long_tail(num_classes, orders=3.0):
    """Distinct counts and the λ of a strength of 2% of that of a balanced task's zero head."""
    counts = torch.logspace(0, orders, num_classes, dtype=torch.float64)
    return counts, 0.01 / math.sqrt(num_classes * counts.sum())


@pytest.mark.parametrize("sizes", [(60,), (12, 15), (2, 9, 4)])
def test_iterations_and_explicit_inverses_agree(sizes, monkeypatch):
    counts = torch.rand(sizes, generator=torch.Generator().manual_seed(0)).double() ** 4 + 1e-3
    both = []
    for rank in (1, 1000):
        monkeypatch.setattr(_feature_hessians, "_EXPLICIT_RANK", rank)
        both.append(optimal_gram(counts, 1e-3, 1e-3, tolerance=1e-12))
    assert both[0].objective == pytest.approx(both[1].objective, rel=1e-11)
    torch.testing.assert_close(
        both[0].gram, both[1].gram, rtol=0, atol=both[0].gram_error + both[1].gram_error
    )


def test_start_is_the_optimum_of_balanced_tasks_and_near_that_of_a_long_tail():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        balanced = optimal_gram(torch.ones(5, 3, 4), 1e-3, 1e-3, max_iterations=0)
        counts, lambda_ = long_tail(100)
        tailed = optimal_gram(counts, lambda_, lambda_, max_iterations=0)
    assert balanced.duality_gap < 1e-12
    assert tailed.duality_gap < 3e-3


def test_three_hundred_classes_with_different_counts_take_a_few_seconds():
    counts, lambda_ = long_tail(300)
    started = time.process_time()
    best = optimal_gram(counts, lambda_, lambda_, tolerance=1e-6)
    assert time.process_time() - started < 20  # explicit inverses: a minute
    assert best.duality_gap <= 1e-6
    assert best.rank == 299


@pytest.mark.slow
def test_a_thousand_classes_with_different_counts_take_a_minute():
    counts, lambda_ = long_tail(1000)
    started = time.process_time()
    best = optimal_gram(counts, lambda_, lambda_, tolerance=1e-6)
    assert time.process_time() - started < 60
    assert best.duality_gap <= 1e-6


def test_progress_on_request(capsys):
    optimal_gram(torch.tensor([[9.0, 1.0], [2.0, 8.0]]), 1e-3, 1e-3, progress=True)
    assert "optimal_gram: step 1, gap " in capsys.readouterr().err
    optimal_gram(torch.tensor([[9.0, 1.0], [2.0, 8.0]]), 1e-3, 1e-3)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("seed", range(4))
def test_two_tasks_of_ten_classes_take_less_than_two_seconds(seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.rand(10, 10, generator=generator).double() ** 4 * 1000
    started = time.process_time()
    best = optimal_gram(counts, 5e-4, 1e-5 * 10.0**-seed, tolerance=1e-8)
    assert time.process_time() - started < 2
    assert best.duality_gap <= 1e-8
    assert best.rank > 9


@pytest.mark.slow
def test_forty_correlated_binary_tasks_take_two_minutes_and_four_gibibytes():
    """200,000 samples whose labels share four causes have 76,760 distinct label tuples."""
    generator = torch.Generator().manual_seed(0)
    loadings, causes = (torch.randn(k, 4, generator=generator) for k in (40, 200_000))
    noise = 0.3 * torch.randn(200_000, 40, generator=generator)
    labels = (causes @ loadings.T + noise + torch.randn(40, generator=generator) > 0).long()
    started = time.process_time()
    counts = JointCounts.from_labels(labels, [2] * 40)
    best = optimal_gram(counts, 1e-4, 1e-4, tolerance=1e-8)
    assert time.process_time() - started < 120
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # KiB
    assert len(counts.counts) > 20_000
    assert best.duality_gap <= 1e-8
    assert best.gram.shape == (80, 80)
