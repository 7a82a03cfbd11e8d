"""Geometric complexity against Jacobians of torch.func, and closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from etf_heads.collapse import geometric_complexity


def network(inputs=5, outputs=4, seed=0):
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))
    return layers.double()


def jacobians(f, x):
    return torch.func.vmap(torch.func.jacrev(lambda sample: f(sample[None])[0]))(x)


@given(
    batch=st.integers(1, 6),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_it_is_the_mean_squared_jacobian(batch, inputs, outputs, seed):
    f, x = network(inputs, outputs, seed), torch.randn(batch, inputs, dtype=torch.float64)
    expected = jacobians(f, x).square().sum() / batch
    torch.testing.assert_close(geometric_complexity(f, x), expected)
    with torch.no_grad():
        torch.testing.assert_close(geometric_complexity(f, x), expected.detach())


def test_images_and_maps_of_features():
    torch.manual_seed(0)
    f = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Softplus()).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(geometric_complexity(f, x), jacobians(f, x).square().sum() / 3)


def test_of_a_linear_map_it_is_its_squared_norm():
    A = torch.randn(7, 6, dtype=torch.float64)
    for x in (torch.zeros(1, 6).double(), torch.randn(9, 6).double()):
        torch.testing.assert_close(geometric_complexity(lambda x: x @ A.T, x), A.square().sum())


def test_probes_have_the_mean_and_the_variance_stated():
    f, x = network(), torch.randn(1, 5, dtype=torch.float64)
    product = (jacobians(f, x)[0] @ jacobians(f, x)[0].T).detach()
    variance = 2 * (product.square().sum() - product.diagonal().square().sum())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        many = [geometric_complexity(f, x, 1, generator=generator).item() for _ in range(1_000)]
    found = torch.tensor(many, dtype=torch.float64)
    exact = float(product.trace())
    assert float(found.mean()) == pytest.approx(exact, abs=4 * float(variance / 1_000) ** 0.5)
    assert float(found.var()) == pytest.approx(float(variance), rel=0.25)
    with torch.no_grad():  # each sample has signs of its own
        mean = geometric_complexity(f, x.expand(20_000, -1), 2, generator=generator)
    assert float(mean) == pytest.approx(exact, abs=4 * float(variance / 40_000) ** 0.5)


def test_the_variance_of_gaussian_inputs_is_at_most_the_complexity():
    """The Poincaré inequality of the standard normal distribution, whose constant is 1."""
    f = network()
    x = torch.randn(20_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        variance = f(x).var(0).sum()
        assert 0 < variance < geometric_complexity(f, x)
        linear = nn.Linear(5, 3, bias=False).double()  # where it is an equality
        variance, complexity = linear(x).var(0).sum(), geometric_complexity(linear, x)
    torch.testing.assert_close(variance, complexity, rtol=0.05, atol=0)


def test_as_a_penalty_it_has_gradients():
    f, x = network(3, 2), torch.randn(4, 3, dtype=torch.float64)
    parameters = dict(f.named_parameters())

    def penalty(x, *values):
        named = dict(zip(parameters, values, strict=True))
        return geometric_complexity(lambda x: torch.func.functional_call(f, named, (x,)), x)

    assert torch.autograd.gradcheck(penalty, (x.requires_grad_(), *parameters.values()))
    geometric_complexity(f, x.detach(), 3).backward()
    assert f[0].weight.grad.any()


def test_measuring_leaves_no_graph_and_works_in_inference_mode():
    f, x = network(), torch.randn(4, 5, dtype=torch.float64)
    expected = geometric_complexity(f, x).item()
    with torch.no_grad():
        assert not geometric_complexity(f, x).requires_grad
    with torch.inference_mode():
        assert geometric_complexity(f, 1 * x).item() == pytest.approx(expected)
    assert f[0].weight.grad is None
    assert not x.requires_grad


def test_half_precision_sums_in_float32():
    A = torch.full((200, 200), 2.0, dtype=torch.float16)
    value = geometric_complexity(lambda x: x @ A, torch.ones(2, 200, dtype=torch.float16))
    assert value.dtype == torch.float32
    assert value == 160_000  # beyond float16


def test_bad_input():
    f, x = network(), torch.randn(4, 5, dtype=torch.float64)
    for wrong in (torch.ones(3, 5, dtype=torch.int64), torch.ones(0, 5), torch.tensor(1.0), [1.0]):
        with pytest.raises(ValueError, match="x must be a floating tensor with samples in it"):
            geometric_complexity(f, wrong)
    with pytest.raises(
        ValueError, match=r"one output a sample, of shape \(4, \.\.\.\); got .* \(\)"
    ):
        geometric_complexity(lambda x: x.sum(), x)
    with pytest.raises(ValueError, match="got tuple"):
        geometric_complexity(lambda x: (x,), x)
    for lost in (lambda x: f(x).detach(), torch.no_grad()(f), torch.zeros_like):
        with pytest.raises(ValueError, match=r"do not depend on x, .*: is there a detach"):
            geometric_complexity(lost, x)
    with pytest.raises(ValueError, match="probes must be a positive integer, got 0"):
        geometric_complexity(f, x, 0)
    normed = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    for function in (normed, normed.forward):
        with pytest.raises(ValueError, match=r"'1' of f is a BatchNorm1d .*: call eval\(\) first"):
            geometric_complexity(function, x)
    geometric_complexity(normed.eval(), x)
