"""Losses of unit vectors: what is theirs alone, beside the laws of all losses."""

import math

import pytest
import torch
from torch import nn

from etf_heads import CompoundETFHead, ETFHead, SphericalCodeHead
from etf_heads.codes import Code
from etf_heads.heads import FixedHead, feature_norm
from etf_heads.losses import (
    NONL,
    NTCE,
    CompoundCrossEntropy,
    DotRegression,
    NormalizedCrossEntropy,
)

SPHERE = [NormalizedCrossEntropy, NTCE, NONL]


@pytest.mark.parametrize("kind", SPHERE)
def test_lengths_play_no_part(kind):
    h, labels = torch.randn(12, 20, dtype=torch.float64), torch.arange(12) % 5
    one, other = (
        ETFHead(20, 5, scale=s, bias=s > 1, learn_scale=s > 1, dtype=torch.float64)
        for s in (1.0, 7.0)
    )
    if other.bias is not None:
        torch.nn.init.normal_(other.bias)
    criterion = kind(temperature=0.2)
    expected = criterion(h, one, labels)
    torch.testing.assert_close(criterion(3 * h, other, labels), expected)
    linear = other.to_linear()
    torch.testing.assert_close(criterion(h, linear, labels), expected)


def test_normalized_cross_entropy_is_that_of_a_head_with_unit_features():
    h, labels = torch.randn(12, 20), torch.arange(12) % 5
    head = ETFHead(20, 5, feature_norm="unit", scale=8.0)
    expected = CompoundCrossEntropy(label_smoothing=0.1)(h, head, labels)
    ours = NormalizedCrossEntropy(1 / 8, label_smoothing=0.1)(h, ETFHead(20, 5), labels)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("classes", "inverse"), [(10, 6.1), (20, 7.2), (100, 9.1)])
def test_the_temperature_that_allows_a_probability(classes, inverse):
    head = ETFHead(classes, classes, dtype=torch.float64)
    labels = torch.arange(classes)
    exact = (classes - 1) / classes * math.log((classes - 1) * 99)
    assert round(exact, 1) == inverse
    loss = NormalizedCrossEntropy(1 / exact)(head.weight, head, labels)
    torch.testing.assert_close(torch.exp(-loss), torch.tensor(0.99, dtype=torch.float64))


def test_collapsed_batches_have_the_losses_that_the_angles_say():
    K, n, temperature = 5, 3, 0.3
    head = ETFHead(8, K, dtype=torch.float64)
    labels = torch.arange(K).repeat(n)
    apart = math.exp(-K / (K - 1) / temperature)
    ntce = NTCE(temperature)(head.weight[labels], head, labels)
    assert float(ntce) == pytest.approx(math.log(n * (1 + (K - 1) * apart)))
    nonl = NONL(temperature)(head.weight[labels], head, labels)
    assert float(nonl) == pytest.approx(math.log(n * (K - 1) * apart))


@pytest.mark.parametrize("kind", SPHERE)
def test_collapse_is_where_they_are_least(kind):
    torch.manual_seed(0)
    head, labels = ETFHead(8, 4, dtype=torch.float64), torch.arange(12) % 4
    h = torch.randn(12, 8, dtype=torch.float64, requires_grad=True)
    criterion = kind(temperature=0.3)
    optimiser = torch.optim.LBFGS([h], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = criterion(h, head, labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    u = torch.nn.functional.normalize(h.detach(), dim=1)
    torch.testing.assert_close((u * head.weight[labels]).sum(1), torch.ones(12).double())


@pytest.mark.parametrize("classes", [3, 50])  # fewer and more than samples
def test_one_class_alone_has_no_negatives(classes):
    h = torch.randn(6, 64, requires_grad=True)
    head = CompoundETFHead(64, {"one": classes, "other": 10})
    labels = {"one": torch.ones(6, dtype=torch.long), "other": torch.arange(6)}
    each = NONL(reduction="none")(h, head, labels)
    assert not each[:, 0].any()
    (gradient,) = torch.autograd.grad(each[:, 0].sum(), h, retain_graph=True)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(each.sum(), h)
    assert gradient.isfinite().all()
    assert gradient.any()
    alone = NTCE()(h[:1], ETFHead(64, 10), torch.tensor([3]))
    torch.testing.assert_close(alone, torch.zeros(()))


@pytest.mark.parametrize("kind", [NTCE, NONL])
@pytest.mark.parametrize("classes", [10, 1000])
def test_blocks_change_memory_and_nothing_else(kind, classes):
    head = ETFHead(1024, classes)
    h, labels = torch.randn(300, 1024), torch.arange(300) % classes
    kept = {}
    for block_size in (64, 1024):
        features = h.clone().requires_grad_()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            loss = kind(0.1, block_size=block_size)(features, head, labels)
        loss.backward()
        kept[block_size] = (loss.detach(), features.grad, sizes)
    torch.testing.assert_close(kept[64][:2], kept[1024][:2])
    pairs = 300 * min(300, classes)
    if classes > 64:
        assert pairs in kept[1024][2]
        assert pairs not in kept[64][2]
        assert not any(size == 64 * 300 for size in kept[64][2])


class Circle(Code):
    """A million unit vectors in the plane, by a formula; nothing makes all of them."""

    def __init__(self, tasks):
        super().__init__(tasks, columns=2)

    def vectors(self, indices, *, dtype=torch.float64):
        angles = indices.to(dtype) * (2 * math.pi / self.rows)
        return torch.stack([angles.cos(), angles.sin()], dim=-1)

    def expand(self, coordinates):  # noqa: ARG002
        raise AssertionError("all classes")


@pytest.mark.parametrize("kind", [NTCE, NONL, DotRegression])
def test_the_number_of_classes_costs_nothing(kind):
    head = FixedHead(8, Circle(1_000_000), scale=3.0, dtype=torch.float64)
    labels = torch.randint(1_000_000, (32,), generator=torch.Generator().manual_seed(0))
    h = torch.randn(32, 8, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(check_size, lambda t: t):
        loss = kind()(h, head, labels)
        loss.backward()
    rows = head.rows(labels)
    few = nn.Linear(8, 32, bias=False).double()  # the same vectors as classes of their own
    few.weight = nn.Parameter(rows)
    assert len(labels.unique()) == 32
    torch.testing.assert_close(loss, kind()(h, few, torch.arange(32)))


def check_size(tensor, most=32 * 32):
    assert tensor.numel() <= most
    return tensor


@pytest.mark.parametrize("kind", SPHERE)
@pytest.mark.parametrize("length", [0.0, 1e-30, 1e30])
def test_features_of_any_length_have_finite_gradients(kind, length):
    h = torch.randn(6, 8)
    h[2] *= length
    h.requires_grad_()
    loss = kind()(h, ETFHead(8, 3), torch.arange(6) % 3)
    loss.backward()
    assert loss.isfinite()
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("length", [0.0, 1e-30, 1.0, 1e30])
def test_unit_normalisation_of_any_length(length):
    x = (torch.tensor([3.0, 0.0, -4.0]) * length).requires_grad_()
    y = feature_norm("unit", 3)(x)
    torch.testing.assert_close(y.detach(), torch.tensor([0.6, 0.0, -0.8]) * (length > 0))
    (gradient,) = torch.autograd.grad(y[1], x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", SPHERE)
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_temperatures(kind, temperature):
    with pytest.raises(ValueError, match="temperature must be a positive finite number, got"):
        kind(temperature=temperature)


def test_bad_block_size():
    with pytest.raises(ValueError, match="block_size must be a positive integer, got 0"):
        NTCE(block_size=0)


def test_many_classes_make_no_cosines():
    classes = 20_000
    head = SphericalCodeHead(256, classes)
    h = torch.randn(4, 256, requires_grad=True)
    labels = torch.tensor([0, 5, classes - 1, -100])
    loss = NormalizedCrossEntropy(0.05, label_smoothing=0.1)(h, head, labels)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: check_size(t, 16 * 256), lambda t: t):
        NormalizedCrossEntropy(0.05)(h, head, labels)
    linear = nn.Linear(256, classes, bias=False)
    linear.weight = nn.Parameter(head.rows(torch.arange(classes)))
    expected = NormalizedCrossEntropy(0.05, label_smoothing=0.1)(h, linear, labels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, h), torch.autograd.grad(expected, h))
