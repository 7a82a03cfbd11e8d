"""The fixed head of a regression: the optimum of the unconstrained feature model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from etf_heads import load_model, replace_head, save_model
from etf_heads.heads import FixedRegressionHead, from_spec, same_head, to_spec
from etf_heads.theory import regression_gram
from tests.cases import NAMED

pytestmark = pytest.mark.recipes  # SciPy

DEVIATIONS = (1.5, 0.8, 0.3)


def targets(samples=24):
    """Three targets with mean (2, -1, 0.5) and deviations DEVIATIONS along oblique axes."""
    rng = np.random.default_rng(0)
    white = np.linalg.qr(rng.normal(size=(samples, 4)) @ np.eye(4))[0]
    white = np.linalg.qr(white - white.mean(0))[0][:, :3] * np.sqrt(samples)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return torch.from_numpy(white * DEVIATIONS @ axes.T + [2.0, -1.0, 0.5])


def objective(model, Y, lambda_w, lambda_h):
    """The model of Andriopoulos et al.: W (n, d), H (d, M) and b (n,), for Y (n, M)."""
    (W, H, b), samples = model, Y.shape[1]
    error = ((W @ H + b[:, None] - Y) ** 2).sum()
    features = lambda_h * (H**2).sum()
    return (error + features) / (2 * samples) + lambda_w / 2 * (W**2).sum()


def least_value(lambda_w, lambda_h):
    theta = (lambda_w * lambda_h) ** 0.5
    return sum(theta * s - theta**2 / 2 if s > theta else s**2 / 2 for s in DEVIATIONS)


LAMBDAS = [(1e-2, 1e-2), (2e-1, 5e-1), (1.0, 0.25)]
"""The last gives up the direction of deviation 0.3."""


@pytest.mark.parametrize(("lambda_w", "lambda_h"), LAMBDAS)
def test_a_head_fixed_there_loses_nothing(lambda_w, lambda_h):
    Y = targets()
    head = FixedRegressionHead.from_targets(
        5, Y, lambda_w=lambda_w, lambda_h=lambda_h, dtype=torch.float64
    )
    W, b, Y = head.weight.numpy(), head.bias.detach().numpy(), Y.numpy().T
    H = W.T @ np.linalg.solve(W @ W.T + lambda_h * np.eye(3), Y - b[:, None])
    value = objective((W, H, b), Y, lambda_w, lambda_h)
    assert value == pytest.approx(least_value(lambda_w, lambda_h), abs=1e-13)
    # These features are the best of this head: the gradient is zero.
    np.testing.assert_allclose(W.T @ (W @ H + b[:, None] - Y) + lambda_h * H, 0, atol=1e-13)


@pytest.mark.parametrize(("lambda_w", "lambda_h"), LAMBDAS)
def test_descent_of_weight_features_and_bias_ends_in_its_gram_matrix(lambda_w, lambda_h):
    Y = targets().numpy().T
    n, d, samples = 3, 4, Y.shape[1]
    head = FixedRegressionHead.from_targets(
        d, torch.from_numpy(Y.T), lambda_w=lambda_w, lambda_h=lambda_h, dtype=torch.float64
    )

    def split(x):
        W, H = x[: n * d].reshape(n, d), x[n * d : -n].reshape(d, samples)
        return W, H, x[-n:]

    def value_and_gradient(x):
        W, H, b = split(x)
        R = (W @ H + b[:, None] - Y) / samples
        gradient = (R @ H.T + lambda_w * W, W.T @ R + lambda_h / samples * H, R.sum(1))
        value = objective((W, H, b), Y, lambda_w, lambda_h)
        return value, np.concatenate([part.ravel() for part in gradient])

    start = np.random.default_rng(1).normal(size=n * d + d * samples + n)
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-10}
    found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    W, _, b = split(found.x)
    assert found.fun == pytest.approx(least_value(lambda_w, lambda_h), abs=1e-9)
    np.testing.assert_allclose(W @ W.T, (head.weight @ head.weight.T).numpy(), atol=2e-4)
    np.testing.assert_allclose(b, head.bias.detach().numpy(), atol=1e-4)


@given(
    targets=st.integers(1, 6),
    more=st.integers(0, 9),
    orientation=st.sampled_from(NAMED),
    strength=st.floats(-3, 1),
    seed=st.integers(0, 9),
)
def test_the_gram_matrix_of_the_theorem_in_any_width(targets, more, orientation, strength, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(targets, targets, generator=generator, dtype=torch.float64)
    covariance = root @ root.T
    lambdas = {"lambda_w": 10**strength, "lambda_h": 0.1}
    expected = regression_gram(covariance, **lambdas)
    if not expected.any():
        with pytest.raises(ValueError, match="the optimal head is zero"):
            FixedRegressionHead(9, covariance, **lambdas)
        return
    head = FixedRegressionHead(
        targets + more, covariance, orientation=orientation, dtype=torch.float64, **lambdas
    )
    size = float(expected.abs().max())
    torch.testing.assert_close(head.weight @ head.weight.T, expected, rtol=0, atol=1e-9 * size)
    assert head(torch.zeros(2, targets + more, dtype=torch.float64)).shape == (2, targets)


def test_directions_given_up_need_no_dimension():
    covariance = torch.diag(torch.tensor([4.0, 1.0, 1e-4]))
    lambdas = {"lambda_w": 0.1, "lambda_h": 0.1}
    assert FixedRegressionHead(2, covariance, **lambdas).weight[2].abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"in_features=1 is too small .* span 2 dimensions"):
        FixedRegressionHead(1, covariance, **lambdas)


def test_one_target():
    y = torch.tensor([1.0, 5.0])  # deviation 2
    head = FixedRegressionHead.from_targets(4, y, lambda_w=0.25, lambda_h=1.0)
    assert head(torch.randn(7, 3, 4)).shape == (7, 3, 1)
    assert float(head.weight.square().sum()) == pytest.approx(2 * (2 - 0.5), rel=1e-6)
    assert head.bias.tolist() == [3.0]
    twin = from_spec(to_spec(head), 4).to_empty(device="cpu")
    twin.load_state_dict(head.state_dict())
    assert torch.equal(twin(torch.ones(2, 4)), head(torch.ones(2, 4)))
    assert same_head(to_spec(head), to_spec(twin))
    linear = head.to_linear()
    torch.testing.assert_close(linear(torch.ones(2, 4)), head(torch.ones(2, 4)))


def test_the_head_of_targets_is_that_of_their_covariance():
    Y = targets(30)
    lambdas = {"lambda_w": 1e-2, "lambda_h": 1e-3}
    covariance = torch.from_numpy(np.cov(Y.numpy().T, bias=True))
    given = FixedRegressionHead(8, covariance, bias=False, dtype=torch.float64, **lambdas)
    found = FixedRegressionHead.from_targets(8, Y, bias=False, dtype=torch.float64, **lambdas)
    torch.testing.assert_close(found.weight, given.weight, rtol=0, atol=1e-12)
    assert found.bias is given.bias is None


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x))


def test_it_replaces_the_last_layer_and_comes_back_from_a_file(tmp_path):
    def make(width):
        return FixedRegressionHead.from_targets(width, targets(), lambda_w=1e-2, lambda_h=1e-2)

    model = replace_head(Network(), make, at="head")
    x, y = torch.randn(10, 6), targets(10).float()
    model.head.bias.data.add_(1)
    nn.functional.mse_loss(model(x), y).backward()
    assert model.head.bias.grad is not None
    assert model.body[0].weight.grad.any()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(Network(), tmp_path / "model.safetensors")
    assert isinstance(loaded.head, FixedRegressionHead)
    assert torch.equal(loaded(x), model(x))


def test_bad_input():
    lambdas = {"lambda_w": 0.1, "lambda_h": 0.1}
    with pytest.raises(ValueError, match=r"is zero: .* more than sqrt.* = 3; give smaller"):
        FixedRegressionHead(4, torch.eye(2), lambda_w=9.0, lambda_h=1.0)
    with pytest.raises(ValueError, match=r"target_covariance has shape \(2, 3\); expected \(n, n"):
        FixedRegressionHead(4, torch.ones(2, 3), **lambdas)
    with pytest.raises(ValueError, match="lambda_w"):
        FixedRegressionHead(4, torch.eye(2), lambda_w=-1.0, lambda_h=1.0)
    with pytest.raises(ValueError, match="dtype"):
        FixedRegressionHead(4, torch.eye(2), dtype=torch.int64, **lambdas)
    make = FixedRegressionHead.from_targets
    with pytest.raises(ValueError, match="targets must be a tensor of a floating dtype, got torch"):
        make(4, torch.arange(6).reshape(3, 2), **lambdas)
    for shape in ((3, 2, 1), (1, 2), (5, 0), ()):
        with pytest.raises(ValueError, match=r"targets has shape .* two samples at least"):
            make(4, torch.ones(shape), **lambdas)
    with pytest.raises(ValueError, match="targets have NaN or infinite entries"):
        make(4, torch.tensor([[1.0, 2.0], [float("nan"), 1.0]]), **lambdas)
    with pytest.raises(ValueError, match="the optimal head is zero"):
        make(4, torch.ones(5, 2), **lambdas)
