"""The same means in Triton, for GPUs: correct in Triton's interpreter, never timed on a device."""
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # comes with torch for CUDA
    triton = None

_WIDEST = 4096  # classes, or features, that a program takes at a time
_jit: Callable[[Callable[..., Any]], Any] = triton.jit if triton else lambda function: function


@_jit
def _scores(features, column, inside, factor, roots, used, columns):
    """Scores of columns of one sample: signed sums over tiles, times factors."""
    sums = tl.zeros_like(tl.load(roots + column, mask=inside, other=0.0))
    sign = 1
    for start in range(0, used, columns):
        here = inside & (start + column < used)
        sums += sign * tl.load(features + start + column, mask=here, other=0.0).to(sums.dtype)
        sign = -sign
    return sums * factor * tl.load(roots + column, mask=inside, other=0.0)


@_jit
def _forward(
    features, feature_row, labels, label_row, label_task, sizes, starts, factors, weights, roots,
    losses, residual, used, columns, missing,
    smoothing: tl.constexpr, gradient: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Of one sample and task: the loss, and (softmax - target) times a weight."""
    row, task = tl.program_id(0).to(tl.int64), tl.program_id(1)
    size, first, factor = tl.load(sizes + task), tl.load(starts + task), tl.load(factors + task)
    label = tl.load(labels + row * label_row + task * label_task)
    features += row * feature_row
    places = tl.arange(0, block)
    zero = factor * 0  # in the precision of the scores, which a constant is not
    total, own, sum_of_all, highest = zero, zero, zero, zero - float("inf")
    hit, other = zero + 1 - smoothing + smoothing / (zero + size), smoothing / (zero + size)
    for start in range(0, size, block):
        inside = start + places < size
        z = _scores(features, first + start + places, inside, factor, roots, used, columns)
        higher = tl.maximum(highest, tl.max(tl.where(inside, z, -float("inf"))))
        e = tl.where(inside, tl.exp(z - higher), 0.0)
        total = total * tl.exp(highest - higher) + tl.sum(e)
        own += tl.sum(tl.where(start + places == label, z, 0.0))
        sum_of_all += tl.sum(z)
        highest = higher
    target = (own - highest) * (1 - smoothing) + (sum_of_all / size - highest) * smoothing
    loss = tl.log(total) - target
    loss = tl.where((label >= 0) & (label < size), loss, float("nan"))
    tl.store(losses + row * tl.num_programs(1) + task, tl.where(label == missing, 0.0, loss))
    if gradient:
        weight = tl.where(label == missing, 0.0, tl.load(weights + task))
        for start in range(0, size, block):
            inside = start + places < size
            z = _scores(features, first + start + places, inside, factor, roots, used, columns)
            wanted = tl.where(start + places == label, hit, other)
            value = (tl.exp(z - highest) / total - wanted) * weight
            tl.store(residual + row * columns + first + start + places, value, mask=inside)


@_jit
def _backward(
    residual, scales, gradient, size, used, columns, block: tl.constexpr
):  # fmt: skip
    """The gradient of some features of one sample: gathered from the columns, with their signs."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * block + tl.arange(0, block)
    column, here = place % columns, place < used
    value = tl.load(residual + row * columns + column, mask=here, other=0.0)
    value *= tl.load(scales + column, mask=here, other=0.0)
    value = tl.where((place // columns) % 2 == 0, value, -value)
    tl.store(gradient + row * size + place, value, mask=place < size)


@lru_cache(maxsize=64)
def _layout(
    sizes: tuple[int, ...], scale: float, used: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Of tasks: sizes, first columns, factors; of columns: roots of feature counts, task."""
    size, columns = torch.tensor(sizes), sum(sizes)
    factors = [scale * math.sqrt(k / (k - 1)) for k in sizes]
    counts = used // columns + (torch.arange(columns) < used % columns).long()
    roots = counts.double().rsqrt()
    task = torch.arange(len(sizes)).repeat_interleave(size)
    made = (size, size.cumsum(0) - size, torch.tensor(factors, dtype=dtype), roots.to(dtype), task)
    return tuple(tensor.to(device) for tensor in made)


def forward(
    features: Tensor,
    labels: Tensor,
    geometry: tuple[tuple[int, ...], float, int],
    ignore_index: int,
    smoothing: float,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Means (T,), and gradients of the scores (N, columns), empty if not asked for.

    A label out of range makes the mean of its task NaN: looking at labels would wait for the GPU.
    """
    sizes, scale, used = geometry
    dtype = torch.promote_types(features.dtype, torch.float32)
    rows, columns = len(features), sum(sizes)
    layout = _layout(sizes, scale, used, features.device, dtype)
    size, starts, factors, roots, _ = layout
    counts = (labels != ignore_index).sum(0).clamp(min=1)
    losses = features.new_empty(rows, len(sizes), dtype=dtype)
    residual = losses.new_empty((rows, columns) if gradient else (0,))
    if rows:
        _forward[rows, len(sizes)](
            *(features, features.stride(0), labels, *labels.stride(), size, starts, factors),
            *(factors / counts, roots, losses, residual, used, columns, ignore_index),
            smoothing=smoothing,
            gradient=gradient,
            block=min(_WIDEST, triton.next_power_of_2(max(sizes))),
        )
    return losses.sum(0) / counts, residual


def backward(
    residual: Tensor, upstream: Tensor, sizes: tuple[int, ...], used: int, like: Tensor
) -> Tensor:
    """Gradient of the features (N, d), from that of the means (T,), or of their sum ()."""
    layout = _layout(sizes, 1.0, used, residual.device, residual.dtype)
    scales = upstream.expand(len(sizes))[layout[-1]] * layout[-2]
    rows, size = like.shape
    gradient = torch.empty_like(like, memory_format=torch.contiguous_format)
    if rows:
        block = min(_WIDEST, triton.next_power_of_2(size))
        grid = rows, triton.cdiv(size, block)
        _backward[grid](residual, scales, gradient, size, used, len(layout[-1]), block=block)
    return gradient
