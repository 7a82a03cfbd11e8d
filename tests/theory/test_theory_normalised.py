"""Unconstrained feature models on the unit sphere: closed form, lower bound, NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etf_heads.theory import (
    CrossEntropy,
    SquaredError,
    UnconstrainedFeatureModel,
    critical_points,
    sphere_optimum,
)


def model_of(classes, dim, scale, seed=0, each=4.0):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.full((classes,), each)
    return UnconstrainedFeatureModel(
        counts, 1e-2, 1e-3, dim=dim, normalised=scale, generator=generator
    )


def descend(model):
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=3000,
        max_eval=30_000,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-13,
        tolerance_change=0,
    )

    def closure():
        optimizer.zero_grad()
        objective = model()
        objective.backward()
        return objective

    optimizer.step(closure)
    return model().item()


@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (3, 2), (4, 3), (4, 7), (6, 8)])
def test_descent_ends_at_the_closed_form(classes, dim, scale):
    if dim == 1:  # two points: descent cannot turn one into the other
        model = model_of(classes, dim, scale)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[2.0], [-3.0]]))
            model.features.copy_(torch.tensor([[0.1], [-5.0]]))
        value = model().item()
    else:
        model = model_of(classes, dim, scale, seed=classes + dim)
        value = descend(model)
    stated = sphere_optimum(classes, scale)
    assert value == pytest.approx(stated.loss, abs=3e-10)
    assert stated.loss == pytest.approx(
        math.log1p((classes - 1) * math.exp(-scale * classes / (classes - 1)))
    )
    if scale < 30:  # where the loss is flat long before the angles are right
        etf = (classes * torch.eye(classes, dtype=torch.float64) - 1) / (classes - 1)
        torch.testing.assert_close(model.gram(), etf, atol=1e-4, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(2, 6),
    dim=st.integers(1, 7),
    scale=st.floats(0.1, 40.0),
    seed=st.integers(0, 2**31),
)
def test_nothing_is_below_the_closed_form(classes, dim, scale, seed):
    """In fewer dimensions, too, where it is not reached."""
    model = model_of(classes, dim, scale, seed)
    assert model().item() >= sphere_optimum(classes, scale).loss - 1e-12


@given(seed=st.integers(0, 2**31), factor=st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_lengths_do_not_matter(seed, factor):
    model = model_of(4, 3, 5.0, seed)
    value, gram = model().item(), model.gram()
    with torch.no_grad():
        model.weight[1] *= factor
        model.features[2] *= factor
    assert model().item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(model.gram(), gram)


def test_the_objective_in_numpy():
    """Two tasks, unequal counts, task weights and a loss each."""
    counts = torch.tensor([[3.0, 1.0], [0.0, 2.0], [4.0, 5.0]])
    model = UnconstrainedFeatureModel(
        counts,
        0.5,
        0.5,
        dim=4,
        task_weights=(1.0, 3.0),
        losses=(CrossEntropy(), SquaredError(2.0)),
        normalised=7.0,
        generator=torch.Generator().manual_seed(1),
    )
    w, h = (p.detach().numpy() for p in (model.weight, model.features))
    cosines = (h @ w.T) / np.linalg.norm(h, axis=1)[:, None] / np.linalg.norm(w, axis=1)
    np.testing.assert_allclose(model.logits().detach(), 7 * cosines, rtol=1e-12)
    total = 0.0
    for row, (a, b) in enumerate(model.counts.labels.tolist()):
        z = 7 * cosines[row]
        first = np.log(np.exp(z[:3]).sum()) - z[a]
        second = 0.5 * ((z[3:] - 2 * (np.eye(2)[b] - 0.5)) ** 2).sum()
        total += float(counts[a, b]) * (first + 3 * second)
    assert model().item() == pytest.approx(total / float(counts.sum()), rel=1e-12)


def test_gradients():
    model = model_of(3, 2, 5.0)
    parameters = dict(model.named_parameters())

    def objective(*values):
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(model, named, ())

    assert torch.autograd.gradcheck(objective, tuple(parameters.values()))


class Tied(nn.Module):
    """A model whose lengths are drawn to 1, so that critical points are no whole rays."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self):
        rows = torch.cat([self.model.weight, self.model.features])
        return self.model() + 0.5 * (rows.square().sum(1) - 1).square().sum()


def test_critical_points_are_global_or_strict_saddles():
    """Some starts end where the gradient is small and the Hessian singular: they are no points."""
    least = sphere_optimum(3, 5.0).loss
    generator = torch.Generator().manual_seed(0)
    tied = Tied(model_of(3, 2, 5.0))
    points = critical_points(tied, 6, max_iterations=80, generator=generator)
    assert len(points) >= 2
    saddles = [p for p in points if p.value > least + 1e-8]
    assert saddles
    assert all(p.least_eigenvalue < -1e-2 for p in saddles)
    assert all(p.value >= least - 1e-10 for p in points)
