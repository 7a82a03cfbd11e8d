"""Mean cross-entropies of tiled simplices, from features, by the compiled kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._tracing import is_recorded, is_watched
from etf_heads.kernels._library import DTYPES, check, is_enabled_for, library, threads

Geometry = tuple[tuple[int, ...], float, int]
"""Classes of each task, the scale s of the class vectors, and the number of features in use.

Class scores are those of :class:`~etf_heads.codes.SimplexCode` in :math:`\\sum K_t` columns, up to
what a softmax does not see, in a :class:`~etf_heads.orientation.TiledOrientation` of the features
in use; the others play no part. It is the identity where there are as many of them as classes.
"""


def takes(features: Tensor) -> bool:
    """Whether kernels are there, turned on, and for these features, here and now.

    They are for plain tensors of float32, float64 or bfloat16 on the CPU, or on a CUDA device after
    :func:`enable_experimental_triton`; not under transforms of ``torch.func``, in forward-mode
    differentiation, or for ``torch.jit.trace``, which must see every operation.
    """
    return (
        is_enabled_for(features.device.type)
        and features.dtype in DTYPES
        and not torch._C._are_functorch_transforms_active()
        and (torch.compiler.is_compiling() or _is_plain(features))
    )


def _is_plain(features: Tensor) -> bool:
    return (
        type(features) in (Tensor, nn.Parameter)
        and torch.autograd.forward_ad._current_level < 0
        and not is_recorded()
    )


def mean_cross_entropies(
    features: Tensor,
    labels: Tensor,
    geometry: Geometry,
    *,
    ignore_index: int = -100,
    smoothing: float = 0.0,
    total: bool = False,
    eager: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Mean cross-entropy of the labelled samples of each task, zero where there are none.

    One pass over the features makes scores, softmax, losses, and the gradient of the scores, which
    is kept for backward; the backward pass lifts it. Sums do not depend on the number of threads.

    Args:
        features: (N, d), of which :func:`takes` holds.
        labels: int64 (N, T).
        geometry: numbers of classes, scale, and number of features in use.
        ignore_index: the label of samples that have none.
        smoothing: share of the target that is spread evenly over all classes, in [0, 1].
        total: whether to return the sum over the tasks, ().
        eager: the means as a function of the features in operations of PyTorch, for gradients of
            gradients; without it there are none.

    Returns:
        (T,), or (); of float32 at least.

    Raises:
        ValueError: if shapes do not fit, or a label is out of range; nothing is computed then.

    Example:
        >>> from etf_heads import ETFHead
        >>> head, h, y = ETFHead(8, 4), torch.randn(3, 8), torch.tensor([[0], [3], [-100]])
        >>> if takes(h):
        ...     loss = mean_cross_entropies(h, y, ((4,), 1.0, 8))
        ...     expected = nn.functional.cross_entropy(head(h), y[:, 0])
        ...     assert torch.allclose(loss, expected)
    """
    gradient = features.requires_grad and torch.is_grad_enabled()
    options = (ignore_index, smoothing, gradient)
    if is_watched():
        sizes, *others = geometry
        means: Tensor = _operator(features, labels, list(sizes), *others, *options)[0]
        return means.sum() if total else means
    if gradient:
        return _Means.apply(features, labels, geometry, options, total, eager)
    return _forward(features, labels, geometry, *options, total)[0]


@lru_cache(maxsize=256)
def _checked(sizes: tuple[int, ...], used: int) -> tuple[Any, int]:
    """Class counts as the kernel takes them, and their sum."""
    if not sizes or min(sizes) < 2:
        raise ValueError(f"classes of each task must be at least 2, got {list(sizes)}")
    if sum(sizes) > used:
        raise ValueError(f"{used} features are in use, one a class needed: {sum(sizes)}")
    return (ctypes.c_int64 * len(sizes))(*sizes), sum(sizes)


def _forward(  # noqa: PLR0917
    features: Tensor,
    labels: Tensor,
    geometry: Geometry,
    ignore_index: int,
    smoothing: float,
    gradient: bool,
    total: bool = False,
) -> tuple[Tensor, Tensor]:
    """Means (T,) or sum (), and gradients of the scores (N, columns), empty if not asked for."""
    sizes, scale, used = geometry
    counts, columns = _checked(sizes, used)
    tasks = len(sizes)
    if features.ndim != 2 or features.shape[1] < used:
        raise ValueError(f"features are {tuple(features.shape)}, expected (N, {used})")
    rows = features.shape[0]
    if (
        labels.shape != (rows, tasks)
        or labels.dtype != torch.int64
        or labels.device != features.device
    ):
        raise ValueError(
            f"labels are {labels.dtype} {tuple(labels.shape)} on {labels.device}, expected int64 "
            f"({rows}, {tasks}) on {features.device}"
        )
    if features.stride(1) != 1:
        features = features.contiguous()
    if not features.is_cpu:
        from etf_heads.kernels import _triton_experimental as on_gpu  # noqa: PLC0415

        options = (ignore_index, smoothing, gradient)
        means, residual = on_gpu.forward(features, labels, geometry, *options)
        return means.sum() if total else means, residual
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    means = torch.empty(() if total else (tasks,), dtype=dtype, device="cpu")
    shape = (rows, columns) if gradient else (0,)
    residual = torch.empty(shape, dtype=dtype, device="cpu")
    status = library().etf_heads_cross_entropy(
        DTYPES[features.dtype],
        features.data_ptr(),
        features.stride(0),
        labels.data_ptr(),
        *labels.stride(),
        rows,
        used,
        tasks,
        counts,
        scale,
        ignore_index,
        smoothing,
        means.data_ptr(),
        total,
        residual.data_ptr() if gradient else None,
        threads(features.numel()),
    )
    check(status)
    return means, residual


def _lifted(
    residual: Tensor, upstream: Tensor, sizes: tuple[int, ...], used: int, like: Tensor
) -> Tensor:
    """Gradient of the features (N, d), from that of the means (T,), or of their sum ()."""
    if not residual.is_cpu:
        from etf_heads.kernels import _triton_experimental as on_gpu  # noqa: PLC0415

        return on_gpu.backward(residual, upstream, sizes, used, like)
    counts, _ = _checked(sizes, used)
    rows, size = like.shape
    gradient = torch.empty(rows, size, dtype=like.dtype, device="cpu")
    status = library().etf_heads_cross_entropy_backward(
        DTYPES[like.dtype],
        residual.data_ptr(),
        upstream.data_ptr(),
        upstream.stride(0) if upstream.ndim else 0,
        rows,
        size,
        used,
        len(sizes),
        counts,
        gradient.data_ptr(),
        threads(gradient.numel()),
    )
    check(status)
    return gradient


class _Means(torch.autograd.Function):
    """In eager execution: calling an operator of one's own costs as much as a small kernel."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        features: Tensor,
        labels: Tensor,
        geometry: Geometry,
        options: tuple[int, float, bool],
        total: bool,
        eager: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        means, residual = _forward(features, labels, geometry, *options, total)
        ctx.save_for_backward(features, residual)
        ctx.geometry, ctx.eager = geometry, eager
        return means

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        features, residual = ctx.saved_tensors
        if torch.is_grad_enabled() and ctx.eager is not None:  # create_graph=True
            means, (given,) = ctx.eager(features), upstream
            given = given.expand_as(means)
            (gradient,) = torch.autograd.grad(means, features, given, create_graph=True)
        else:
            sizes, _, used = ctx.geometry
            gradient = _lifted(residual, upstream[0], sizes, used, features)
        return gradient, None, None, None, None, None


@torch.library.custom_op("etf_heads::mean_cross_entropies", mutates_args=())
def _operator(  # noqa: PLR0917
    features: Tensor,
    labels: Tensor,
    sizes: list[int],
    scale: float,
    used: int,
    ignore_index: int,
    smoothing: float,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    geometry = tuple(sizes), scale, used
    return _forward(features, labels, geometry, ignore_index, smoothing, gradient)


@_operator.register_fake
def _(  # noqa: PLR0917
    features: Tensor,
    labels: Tensor,  # noqa: ARG001
    sizes: list[int],
    scale: float,  # noqa: ARG001
    used: int,  # noqa: ARG001
    ignore_index: int,  # noqa: ARG001
    smoothing: float,  # noqa: ARG001
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(features.dtype, torch.float32)
    shape = (features.shape[0], sum(sizes)) if gradient else (0,)
    return features.new_empty(len(sizes), dtype=dtype), features.new_empty(shape, dtype=dtype)


@torch.library.custom_op("etf_heads::mean_cross_entropies_backward", mutates_args=())
def _backward_operator(
    residual: Tensor, upstream: Tensor, sizes: list[int], used: int, like: Tensor
) -> Tensor:
    return _lifted(residual, upstream, tuple(sizes), used, like)


@_backward_operator.register_fake
def _(
    residual: Tensor,  # noqa: ARG001
    upstream: Tensor,  # noqa: ARG001
    sizes: list[int],  # noqa: ARG001
    used: int,  # noqa: ARG001
    like: Tensor,
) -> Tensor:
    return like.new_empty(like.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, _, ctx.sizes, _, ctx.used, *_ = inputs
    ctx.save_for_backward(features, output[1])


def _backward(ctx: Any, upstream: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    features, residual = ctx.saved_tensors
    gradient = _backward_operator(residual, upstream, ctx.sizes, ctx.used, features)
    return gradient, None, None, None, None, None, None, None


_operator.register_autograd(_backward, setup_context=_keep)
