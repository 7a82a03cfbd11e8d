"""Run by test_triton_experimental.py in a process where Triton interprets its functions."""

from itertools import cycle, product

import pytest
import torch
from torch.nn import functional as F

from etf_heads import CompoundETFHead
from etf_heads.kernels import _triton_experimental as on_gpu

BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 6e-3}
# tasks, features, features in use: one tile, ragged ones, many, more classes than a block
SHAPES = [([7], 7, 7), ([5, 2, 9], 37, 37), ([2] * 5, 64, 10), ([3, 40], 130, 120), ([21], 50, 50)]


def expected(head, h, labels, smoothing, upstream):
    """Means and gradient by a dense product in float64."""
    h = h.detach().double().requires_grad_()
    scores = (h @ head.weight.T).split(head.tasks.sizes, dim=1)
    means = torch.stack(
        [
            F.cross_entropy(z, y, reduction="sum", label_smoothing=smoothing)
            / max(1, (y >= 0).sum())
            for z, y in zip(scores, labels.unbind(1), strict=True)
        ]
    )
    return means, torch.autograd.grad(means, h, upstream.double())[0]


# Each shape in narrow and in wide blocks, with dtypes and smoothing in turn.
CASES = list(zip(product(SHAPES, [8, 4096]), cycle(BOUNDS), cycle([0.0, 0.1, 0.1, 0.0])))


@pytest.mark.parametrize(("blocks", "dtype", "smoothing"), CASES)
def test_means_and_gradients_are_those_of_dense_scores(monkeypatch, blocks, dtype, smoothing):
    (sizes, d, used), widest = blocks
    monkeypatch.setattr(on_gpu, "_WIDEST", widest)
    orientation = "canonical" if used == sum(sizes) else "tiled"
    head = CompoundETFHead(used, sizes, orientation=orientation, scale=3.0, dtype=torch.float64)
    h = torch.randn(6, d).to(dtype)
    labels = torch.stack([torch.randint(k, (6,)) for k in sizes], dim=1)
    labels[torch.rand(labels.shape) < 0.3] = -100
    wide = torch.promote_types(dtype, torch.float32)
    upstream = torch.linspace(0.5, 2, len(sizes), dtype=wide)
    means, residual = on_gpu.forward(h, labels, (tuple(sizes), 3.0, used), -100, smoothing, True)
    gradient = on_gpu.backward(residual, upstream, tuple(sizes), used, h)
    dense, lifted = expected(head, h[:, :used], labels, smoothing, upstream)
    bound = BOUNDS[dtype]
    assert means.dtype == wide
    assert gradient.dtype == dtype
    exact = min(bound, BOUNDS[torch.float32])
    torch.testing.assert_close(means.double(), dense, rtol=exact, atol=10 * exact)
    torch.testing.assert_close(gradient[:, :used].double(), lifted, rtol=bound, atol=3 * bound)
    assert not gradient[:, used:].any()
    total = on_gpu.backward(residual, torch.ones((), dtype=wide), tuple(sizes), used, h)
    ones = on_gpu.backward(residual, torch.ones(len(sizes), dtype=wide), tuple(sizes), used, h)
    torch.testing.assert_close(total, ones, rtol=0, atol=0)


def test_strides_empty_batches_and_missing_tasks():
    geometry = ((3, 4), 1.0, 7)
    h, labels = torch.randn(6, 7), torch.randint(3, (6, 2))
    means, residual = on_gpu.forward(h, labels, geometry, -100, 0.0, True)
    wide, turned = torch.randn(12, 20), labels.T.contiguous().T
    wide[::2, 3:10] = h
    same = on_gpu.forward(wide[::2, 3:10], turned, geometry, -100, 0.0, True)
    torch.testing.assert_close(same, (means, residual), rtol=0, atol=0)
    alone, none = on_gpu.forward(h, labels, geometry, -100, 0.0, False)
    torch.testing.assert_close(alone, means, rtol=0, atol=0)
    assert none.numel() == 0
    labels[:, 1] = -100
    assert on_gpu.forward(h, labels, geometry, -100, 0.0, True)[0][1] == 0
    nothing = on_gpu.forward(h[:0], labels[:0], geometry, -100, 0.0, True)
    assert nothing[0].tolist() == [0, 0]
    assert on_gpu.backward(nothing[1], torch.ones(2), (3, 4), 7, h[:0]).shape == (0, 7)


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_label_out_of_range_makes_its_task_nan(wrong):
    labels = torch.tensor([[0, 1], [wrong, 2]])
    means, _ = on_gpu.forward(torch.randn(2, 7), labels, ((3, 4), 1.0, 7), -100, 0.0, True)
    assert means.isnan().tolist() == [True, False]


@pytest.mark.parametrize("gap", [0.0, 30.0, 1000.0])
def test_losses_of_sure_decisions_are_exact(gap):
    h = torch.tensor([[gap, 0.0], [0.0, gap]])
    means, _ = on_gpu.forward(h, torch.tensor([[0], [1]]), ((2,), 0.5**0.5, 2), -100, 0.0, True)
    expected = F.cross_entropy(h.double(), torch.tensor([0, 1]))
    torch.testing.assert_close(means[0].double(), expected, rtol=1e-6, atol=1e-6)
