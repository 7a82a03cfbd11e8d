"""A penalty on features stands for the decay of the layer that makes them."""

import pytest
import torch
from torch import nn

from etf_heads import CompoundETFHead, ETFHead
from etf_heads.losses import FeaturePenalty
from tests.cases import HeadCase, features
from tests.losses.loss_cases import HEADS, dense

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def test_on_whitened_inputs_it_is_the_removed_heads_decay():
    torch.manual_seed(0)
    inputs = torch.linalg.qr(torch.randn(40, 6, dtype=torch.float64)).Q * 40**0.5
    layer = nn.Linear(6, 5, bias=False, dtype=torch.float64)
    for multiplier, decay in [(2.0, 0.03), (10.0, 0.5)]:
        penalty = FeaturePenalty(weight_decay=decay, multiplier=multiplier)
        (gradient,) = torch.autograd.grad(penalty(layer(inputs)), layer.weight)
        torch.testing.assert_close(gradient, (multiplier - 1) * decay * layer.weight, **EXACT)


def test_strength_is_what_multiplies_the_mean_square():
    h = torch.randn(3, 4, 8)
    expected = 0.25 * h.square().sum(-1).mean()
    torch.testing.assert_close(FeaturePenalty(0.25)(h), expected)
    torch.testing.assert_close(FeaturePenalty(0.25)(h, ETFHead(8, 3)), expected)


FREE = [c for c in HEADS if getattr(c.make(), "norm", None) is None]
"""Heads before which the length of features is free."""


@pytest.mark.parametrize("case", FREE, ids=str)
def test_parts_of_tasks_are_projections(case):
    head, h = case.make(), features(case, 7)
    tasks, weight, _ = dense(head)
    weights = [1.0 + t for t in range(len(tasks))]
    expected = 0.0
    for t, rows in enumerate(tasks.slices):
        W = torch.from_numpy(weight[rows])
        # Directions that a Gram matrix lacks are the square roots of its rounding errors, 1e-8.
        part = h @ torch.linalg.pinv(W, rtol=1e-6) @ W
        expected = expected + weights[t] * part.square().sum(-1).mean()
    value = FeaturePenalty(0.5, task_weights=weights)(h, head)
    torch.testing.assert_close(value, 0.5 * expected, rtol=1e-6, atol=1e-6)


def test_orthogonal_tasks_of_equal_weight_have_the_square_of_what_they_see():
    head = CompoundETFHead(5, {"a": 4, "b": 3})
    h = torch.randn(9, 5)
    parts = FeaturePenalty(1.0, task_weights={"a": 1, "b": 1})(h, head)
    torch.testing.assert_close(parts, FeaturePenalty(1.0)(h))


def test_only_the_features_get_gradients():
    head = nn.Linear(12, 5)
    h = torch.randn(7, 12, requires_grad=True)
    FeaturePenalty(1.0, task_weights=[1.0])(h, head).backward()
    assert h.grad.any()
    assert head.weight.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either strength, or weight_decay"),
        ({"strength": 1.0, "weight_decay": 1.0}, "give either strength, or weight_decay"),
        ({"strength": -1.0}, "strength must be finite and at least 0, got -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be finite"),
        ({"weight_decay": 1.0, "multiplier": 0.5}, "multiplier must be finite and at least 1"),
        ({"strength": 1.0, "task_weights": [-1]}, "task_weights must be finite and at least 0"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeaturePenalty(**arguments)


def test_bad_heads():
    h = torch.randn(4, 64)
    for norm in ("batch", "unit", "layer"):
        head = HeadCase(64, 10, options={"feature_norm": norm}).make()
        with pytest.raises(ValueError, match="the head normalises its features"):
            FeaturePenalty(1.0)(h, head)
    with pytest.raises(ValueError, match="task_weights need the head"):
        FeaturePenalty(1.0, task_weights=[1.0])(h)
    with pytest.raises(ValueError, match="task_weights has 2 entries for 1 tasks"):
        FeaturePenalty(1.0, task_weights=[1.0, 2.0])(h, ETFHead(64, 10))


def test_squares_of_half_precision_do_not_overflow():
    features = torch.full((2, 4), 300.0, dtype=torch.float16)
    torch.testing.assert_close(FeaturePenalty(0.5)(features), torch.tensor(180_000.0))
