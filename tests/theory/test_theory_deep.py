"""Deep models, the flow from a Hadamard start, and critical points: check values and descent."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize, minimize_scalar

from etf_heads.geometry import hadamard, hadamard_init
from etf_heads.theory import (
    CrossEntropy,
    DeepUnconstrainedFeatureModel,
    Focal,
    SquaredError,
    UnconstrainedFeatureModel,
    balanced_optimum,
    critical_points,
    deep_collapse_value,
    schatten_value,
    spectral_flow,
    triangular_graph_value,
)


def descend(model, steps=5000):
    parameters = list(model.parameters())

    def objective(x):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(x.copy()), parameters)
        model.zero_grad()
        value = model()
        value.backward()
        return value.item(), torch.cat([p.grad.flatten() for p in parameters]).numpy()

    start = torch.nn.utils.parameters_to_vector(parameters).detach().numpy()
    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 0, "gtol": 1e-10}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(found.x), parameters)
    return found.fun


def factor(r, depth):
    """The triangular graph's regulariser over that of collapse: s = 1 as λ tends to zero."""
    k, tiny = r * (r - 1) // 2, 1e-12
    return triangular_graph_value(r, depth, tiny) / deep_collapse_value(k, depth, tiny)


@pytest.mark.parametrize(
    ("r", "depth", "stated"),
    [
        (4, 4, 0.945),
        (5, 4, 0.883),
        (6, 4, 0.839),
        (4, 5, 0.891),
        (5, 5, 0.803),
        (6, 5, 0.742),
        (5, 3, 1.018),
        (9, 3, 1.0005),
        (10, 3, 0.9991),
    ],
)
def test_cost_of_the_graph_over_collapse(r, depth, stated):
    assert factor(r, depth) == pytest.approx(
        stated, abs=6e-4 if depth > 3 else 3e-4 if r < 9 else 6e-5
    )


def test_values_of_ten_classes_and_four_layers():
    assert deep_collapse_value(10, 4, 0.004) == pytest.approx(0.099180, abs=1e-6)
    assert triangular_graph_value(5, 4, 0.004) == pytest.approx(0.087653, abs=1e-6)


def graph_model(r, depth, lambda_):
    """The construction at the best of a grid of its two numbers, in a model of width K."""
    pairs = [(i, j) for i in range(r) for j in range(i)]
    k = len(pairs)
    B = torch.zeros(r, k, dtype=torch.float64)
    for edge, (i, j) in enumerate(pairs):
        B[i, edge] = B[j, edge] = 1
    U, S, V = torch.linalg.svd(B, full_matrices=False)
    model = DeepUnconstrainedFeatureModel(k, depth, lambda_)
    best = math.inf, None
    for beta in np.linspace(0.88, 0.92, 5):
        last = torch.linalg.inv((B.T @ B - beta).relu())
        layers = [U * S.sqrt(), *[torch.eye(r).double()] * (depth - 3), B.T - beta / 2, last]
        factors = [S.sqrt()[:, None] * V, *layers]
        norms = [w.norm() for w in factors]
        for s in np.linspace(0.5, 1.0, 51):
            size = (math.prod(norms) * s) ** (1 / len(norms))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
                for parameter, w, norm in zip(
                    [model.features.T, *model.layers], factors, norms, strict=True
                ):
                    parameter[: w.shape[0], : w.shape[1]] = w / norm * size
                value = model().item()
            if value < best[0]:
                best = value, torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    torch.nn.utils.vector_to_parameters(best[1], model.parameters())
    return model, best[0]


def test_the_graph_is_a_point_of_the_model_and_descent_goes_on_from_there():
    model, value = graph_model(5, 4, 0.004)
    assert value == pytest.approx(triangular_graph_value(5, 4, 0.004), abs=1e-5)
    assert model.ranks() == [5, 5, 5, 10]
    least = descend(model)
    assert least == pytest.approx(0.087573, abs=2e-6)
    assert least < deep_collapse_value(10, 4, 0.004)
    assert model.ranks()[:3] == [5, 5, 5]


def test_collapse_is_a_stationary_point():
    k, depth, lambda_, n = 4, 3, 0.01, 2.0
    model = DeepUnconstrainedFeatureModel(k, depth, lambda_, n=n)
    value = deep_collapse_value(k, depth, lambda_, n)
    price = lambda_ / 2 * k * (depth + 1) * n ** (1 / (depth + 1))
    s = minimize_scalar(
        lambda s: 0.5 * (1 - s) ** 2 + price * s ** (2 / (depth + 1)),
        bounds=(0.5, 1),
        method="bounded",
        options={"xatol": 1e-12},
    ).x
    size = (s * math.sqrt(n)) ** (1 / (depth + 1))  # of every factor, features by sqrt(n)
    with torch.no_grad():
        model.features.copy_(torch.eye(k) * size / math.sqrt(n))
        for weight in model.layers:
            weight.copy_(torch.eye(k) * size)
    objective = model()
    objective.backward()
    assert objective.item() == pytest.approx(value, rel=1e-9)
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-7
    assert model.ranks() == [k] * depth


def test_collapse_gives_up_under_strong_decay():
    assert deep_collapse_value(10, 4, 10.0) == 0.5


def test_schatten_values():
    k = 4
    simplex = torch.eye(k).double() - 1 / k
    square = torch.eye(k).double() - torch.eye(k).double().roll(2, 0)

    def least(frame, factors):
        return minimize_scalar(
            lambda a: schatten_value(a * frame, factors, 1e-3), bounds=(1, 40), method="bounded"
        ).fun

    assert least(simplex, 4) == pytest.approx(0.017975, abs=1e-6)
    assert least(square, 4) == pytest.approx(0.016595, abs=1e-6)


def test_schatten_value_is_the_least_of_the_linear_model():
    k, depth = 3, 2
    simplex = torch.eye(k).double() - 1 / k
    stated = minimize_scalar(
        lambda a: schatten_value(a * simplex, depth + 1, 1e-2), bounds=(1, 30), method="bounded"
    ).fun
    values = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        model = DeepUnconstrainedFeatureModel(
            k, depth, 1e-2, loss=CrossEntropy(), activation=None, generator=generator
        )
        values.append(descend(model))
        assert schatten_value(model.logits().detach(), depth + 1, 1e-2) <= values[-1] + 1e-9
    assert min(values) == pytest.approx(min(*values, stated), rel=1e-6)


@pytest.mark.parametrize("k", [4, 8, 16])
def test_singular_vectors_stay_and_the_flow_is_the_reduced_one(k):
    """The full equation of both layers by SciPy, from an unequal start."""
    start = 0.3 + torch.rand(k, generator=torch.Generator().manual_seed(k)).double()
    second, first = hadamard_init(k, k + 1, start)
    eye = np.eye(k)

    def slope(_, x):
        W2, W1 = x[: k * (k + 1)].reshape(k, k + 1), x[k * (k + 1) :].reshape(k + 1, k)
        Z = W2 @ W1
        P = np.exp(Z - Z.max(0))
        R = (eye - P / P.sum(0)) / k
        return np.concatenate([(R @ W1.T).ravel(), (W2.T @ R).ravel()])

    packed = np.concatenate([second.numpy().ravel(), first.numpy().ravel()])
    end = solve_ivp(slope, (0, 20.0), packed, rtol=1e-11, atol=1e-12).y[:, -1]
    Z = end[: k * (k + 1)].reshape(k, k + 1) @ end[k * (k + 1) :].reshape(k + 1, k)
    Q = hadamard(k).numpy()
    turned = Q.T @ Z @ Q
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 1e-9
    reduced = spectral_flow(start, torch.tensor([20.0]))[0].numpy()
    np.testing.assert_allclose(np.diag(turned), reduced, rtol=1e-5)


def spread(s):
    """V of the docstring, over k >= 1."""
    return (s[:, 1:].mean(1).log() - s[:, 1:].log().mean(1)).numpy()


def test_the_lyapunov_function_falls():
    for seed in range(5):
        start = 2 * torch.rand(8, generator=torch.Generator().manual_seed(seed)).double() + 0.01
        values = spread(spectral_flow(start, torch.logspace(-1, 9, 40, dtype=torch.float64)))
        assert (np.diff(values) < 1e-9).all()
        assert values[-1] < 0.1 * values[0] + 0.35


def test_flow_with_decay_ends_at_its_closed_form():
    start = torch.tensor([1.0, 0.2, 0.5, 0.3, 0.7, 0.4, 0.6, 0.1])
    late = spectral_flow(start, torch.tensor([2e4, 1e12]), decay=1e-3)
    assert late[:, 1:].flatten().tolist() == pytest.approx([6.900731] * 14, abs=1e-4)
    assert late[1, 0] == 0


def test_what_is_zero_stays_zero():
    late = spectral_flow(torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1e3]))
    assert late[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert late[1, [0, 2]].tolist() == [0.0, 0.0]
    assert late[1, 1] > 5


def test_nearly_equal_starts_collapse_and_unequal_ones_stay_apart_for_long():
    times = torch.tensor([1e6])
    even = spectral_flow(0.1 * (1 + 0.01 * torch.arange(8)), times)
    uneven = spectral_flow(torch.tensor([1.0, 4, 0.01, 0.02, 3, 0.01, 0.05, 2]), times)
    assert spread(even)[0] < 1e-3
    assert spread(uneven)[0] > spread(even)[0]


LANDSCAPE = [CrossEntropy(), CrossEntropy(0.1), SquaredError(1.0), Focal(2.0)]


@pytest.mark.parametrize("loss", LANDSCAPE, ids=str)
def test_critical_points_are_global_or_strict_saddles(loss):
    model = UnconstrainedFeatureModel(torch.ones(3) * 4, 5e-3, 1e-4, dim=2, losses=loss)
    generator = torch.Generator().manual_seed(0)
    points = critical_points(model, 6, generator=generator)
    least = balanced_optimum([3], 5e-3, 1e-4, 12, losses=loss).objective
    assert len(points) >= 3
    saddles = [p for p in points if p.value > least + 1e-8]
    assert saddles
    assert all(p.least_eigenvalue < -1e-3 for p in saddles)
    assert all(p.value >= least - 1e-10 for p in points)


def test_critical_points_of_given_starts():
    model = UnconstrainedFeatureModel(torch.ones(3), 1e-2, 1e-2)
    before = model.weight.detach().clone()
    zero = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    (point,) = critical_points(model, [zero])
    assert point.value == pytest.approx(math.log(3))
    assert point.least_eigenvalue < -0.1
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DeepUnconstrainedFeatureModel(1, 2, 1e-3), "num_classes=1"),
        (lambda: DeepUnconstrainedFeatureModel(3, 0, 1e-3), "depth must be a positive integer"),
        (lambda: deep_collapse_value(3, 2, 0.0), "lambda_ must be a positive number"),
        (lambda: triangular_graph_value(3, 4, 1e-3), "at least 4 vertices"),
        (lambda: triangular_graph_value(5, 2, 1e-3), "at least 3 layers"),
        (lambda: schatten_value(torch.ones(2, 3), 2, 1e-3), r"shape \(2, 3\); expected \(K, K\)"),
        (lambda: hadamard_init(6, 8), "num_classes=6 is not a power of two"),
        (lambda: hadamard_init(8, 6), "dim=6 is too small for 8 classes: 8 needed"),
        (lambda: hadamard_init(4, 4, -1.0), "singular_values must be one number, or 4"),
        (lambda: spectral_flow(-torch.ones(4), torch.ones(1)), "none negative"),
        (lambda: spectral_flow(torch.ones(4), torch.tensor([2.0, 1.0])), "increasing"),
        (lambda: spectral_flow(torch.ones(4), torch.tensor([1.0, torch.inf])), "finite"),
        (lambda: spectral_flow(torch.ones(4), torch.ones(1), decay=-1.0), "decay must be zero or"),
        (lambda: spectral_flow(torch.ones(6), torch.ones(1)), "size=6 is not a power of two"),
        (
            lambda: critical_points(
                UnconstrainedFeatureModel(torch.ones(3), 1e-2, 1e-2), [torch.zeros(3)]
            ),
            r"starts has a vector of shape \(3,\); expected \(12,\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
