"""The log-sum-exp of scores of many bases, without the scores: one pass makes its gradient too."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from etf_heads import kernels
from etf_heads._precision import at_least_float32
from etf_heads._tracing import is_traced
from etf_heads.codes._tiles import tile_size, tiles


def _with_gradient(  # noqa: PLR0917 - operators of torch take flat arguments
    coordinates: Tensor,
    signs: Tensor,
    first: int,
    classes: int,
    chosen: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp (samples,), and its gradient (samples, n) if that is wanted."""
    coordinates = coordinates.to(at_least_float32(coordinates.dtype))
    if kernels.takes_bases(coordinates):
        return kernels.bases_logsumexp(coordinates, signs, first, classes, chosen, gradient)
    sums = coordinates.new_empty(len(coordinates))
    gradients = torch.empty_like(coordinates) if gradient else sums.new_empty(0)
    step = max(1, tile_size(coordinates) // coordinates.shape[1])
    with torch.autocast(coordinates.device.type, enabled=False):
        for start in range(0, len(coordinates), step):
            some = slice(start, start + step)
            block = coordinates[some].mT.contiguous()
            sums[some], lifted = _one_block(block, signs, first, classes, chosen, gradient)
            if gradient:
                gradients[some] = lifted.mT
    return sums, gradients


def _one_block(  # noqa: PLR0917
    coordinates: Tensor,
    signs: Tensor,
    first: int,
    classes: int,
    chosen: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp (samples,) of coordinates (n, samples), and its gradient (n, samples)."""
    lines = slice(first, first + -(-classes // 2))
    small = _fits_exp(coordinates, classes)
    lowest = torch.finfo(coordinates.dtype).min
    peak = coordinates.new_full(coordinates.shape[1:], 0.0 if small else lowest)
    total = torch.zeros_like(peak)
    lifted = torch.zeros_like(coordinates)
    for tile in tiles(coordinates, signs, lines):
        odd = classes % 2 == 1 and tile.lines.stop == lines.stop
        if small and chosen is None and not odd:
            above = tile.scores.exp()
            below = above.reciprocal()
        else:
            up, down = tile.scores, -tile.scores
            if odd:  # the other end of the last line is no class
                down[-1] = -math.inf
            if chosen is not None:
                ends = chosen[tile.start - first : tile.lines.stop - first].unsqueeze(-1)
                up, down = up.where(ends[:, 0], -math.inf), down.where(ends[:, 1], -math.inf)
            if not small:
                higher = torch.maximum(up.amax(0), down.amax(0)).maximum(peak)
                shrink = torch.exp(peak - higher)
                total.mul_(shrink)
                lifted.mul_(shrink)
                peak = higher
            above, below = (up - peak).exp_(), down.sub_(peak).exp_()
        total.add_(above.sum(0)).add_(below.sum(0))
        if gradient:
            lifted.add_(tile.lift(above.sub_(below)))
    return total.log().add_(peak), lifted.div_(total)


def _fits_exp(coordinates: Tensor, classes: int) -> bool:
    """Whether sums of exponentials are finite without a running maximum.

    No score is above the length of the coordinates. On other devices than the CPU one would have
    to wait for that length.
    """
    if coordinates.device.type != "cpu" or not coordinates.numel():
        return False
    longest = float(torch.linalg.vector_norm(coordinates, dim=0).max())
    return longest + math.log(classes) < math.log(torch.finfo(coordinates.dtype).max) - 1


class _LogSumExp(torch.autograd.Function):
    """In eager execution: calling an operator of one's own would import the compiler."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Log-sum-exp, and the gradient for later."""
        output = _with_gradient(*inputs)
        _keep(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the coordinates."""
        return _backward(ctx, upstream[0])


# Compilers see one operator: a graph of all tiles would be as long as the code has bases.
_operator = torch.library.custom_op("etf_heads::bases_logsumexp", mutates_args=())(_with_gradient)


@_operator.register_fake
def _(  # noqa: PLR0917
    coordinates: Tensor,
    signs: Tensor,  # noqa: ARG001
    first: int,  # noqa: ARG001
    classes: int,  # noqa: ARG001
    chosen: Tensor | None,  # noqa: ARG001
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    dtype = at_least_float32(coordinates.dtype)
    sums = coordinates.new_empty(len(coordinates), dtype=dtype)
    return sums, torch.empty_like(coordinates, dtype=dtype) if gradient else sums.new_empty(0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype


def _backward(ctx: Any, upstream: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "the cross-entropy of a head of many classes differentiates once, since it makes no "
            "logits; for gradients of gradients (create_graph=True) take "
            "torch.nn.functional.cross_entropy(head(features), labels)"
        )
    (gradients,) = ctx.saved_tensors
    return (upstream.unsqueeze(-1) * gradients).to(ctx.dtype), None, None, None, None, None


_operator.register_autograd(_backward, setup_context=_keep)


def bases_logsumexp(
    coordinates: Tensor,
    signs: Tensor,
    first: int,
    classes: int,
    chosen: Tensor | None = None,
) -> Tensor:
    r"""Log of the sum of exponentials of a task's scores, in O(samples n) memory for any K.

    The scores z of lines count as :math:`e^z + e^{-z}`, those of an odd last one as :math:`e^z`;
    the gradient, :math:`e^z - e^{-z}` over the sum, is made and lifted in the same pass, so that
    each basis costs two fast transforms and nothing of it is kept.

    Args:
        coordinates: (samples, n).
        signs: (bases - 1, n) of :class:`~etf_heads.codes.BasesCode`.
        first: the first line of the task.
        classes: K_t.
        chosen: (lines, 2) which ends of lines are classes; all when None.

    Returns:
        (samples,), of float32 at least. It differentiates once.
    """
    gradient = coordinates.requires_grad and torch.is_grad_enabled()
    inputs = (coordinates, signs, first, classes, chosen, gradient)
    return _operator(*inputs)[0] if is_traced() else _LogSumExp.apply(*inputs)
