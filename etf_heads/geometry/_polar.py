"""The polar factor: of all matrices with orthonormal columns, the one nearest to a given matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from etf_heads._precision import at_least_float32


def polar(matrix: Tensor) -> Tensor:
    r"""Polar factor :math:`P = U V^\top` of a matrix :math:`B = U S V^\top`, differentiable.

    P maximises :math:`\langle P, B \rangle` and minimises :math:`\|P - B\|` over orthonormal
    columns. With an upstream gradient G, :math:`Q = V S V^\top` and X the solution of the
    Sylvester equation :math:`X Q + Q X = P^\top G - G^\top P`, which is a division by
    :math:`s_i + s_j` in V's basis,

    .. math:: \partial L / \partial B = P X + (G - P P^\top G)\, Q^{-1} .

    That is O(d n²) work and no n² x n² system. Second derivatives are right too, third ones not.

    Singular values of at most :math:`\epsilon \max(d, n)\, s_{\max}` count as zero, as in
    ``torch.linalg.matrix_rank``. P still has orthonormal columns then, but those that stand for
    the missing rank are any; they are constants to the backward pass, and get no gradient.

    The decomposition is that of the n x n Gram matrix in float64, as long as this loses nothing:
    for float32 input always (where an SVD in float32 loses digits in proportion to the condition
    number), for float64 input up to a condition number of 30. It is faster than the thin SVD
    that everything else takes.

    Args:
        matrix: B, shape (..., d, n) with d >= n, any floating dtype; half precision is worked on
            in float32 and rounded once.

    Returns:
        P, the same shape and dtype.

    Raises:
        ValueError: if there are fewer rows than columns, or B is not a floating-point matrix.

    Example:
        >>> P = polar(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
        >>> P
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]])
    """
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise ValueError(
            "matrix must be a floating-point tensor of shape (..., d, n), got "
            f"{matrix.dtype} of shape {tuple(matrix.shape)}"
        )
    if matrix.shape[-2] < matrix.shape[-1]:
        raise ValueError(
            f"matrix has shape {tuple(matrix.shape)}: {matrix.shape[-1]} orthonormal columns do "
            f"not fit into {matrix.shape[-2]} rows; pass its transpose for orthonormal rows"
        )
    return polar_and_null_space(matrix)[0]


def polar_and_null_space(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Polar factor (..., d, n), and the projector (..., n, n) onto what B maps to zero."""
    work = matrix.to(at_least_float32(matrix.dtype))
    factor, s, v = _Polar.apply(work)
    with exact_products(work):
        null = v * ~_kept(s, work.shape[-2]).unsqueeze(-2)
        return factor.to(matrix.dtype), (null @ v.mT).to(matrix.dtype)


def exact_products(like: Tensor) -> torch.autocast:
    """A context in which autocast leaves matrix products alone."""
    return torch.autocast(like.device.type, enabled=False)


class _Polar(torch.autograd.Function):
    """B -> P, and the singular values and right vectors as constants."""

    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with exact_products(matrix):
            return _decompose(matrix)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Tensor:
        with exact_products(grad):
            return _pull_back(grad, *ctx.saved_tensors)

    @staticmethod
    def vmap(_: Any, in_dims: tuple[int], matrix: Tensor) -> tuple[Any, tuple[int, int, int]]:
        return _Polar.apply(matrix.movedim(in_dims[0], 0)), (0, 0, 0)


def _decompose(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P, singular values (..., n), right singular vectors (..., n, n)."""
    if matrix.device.type != "mps":  # has no float64
        wide = matrix.double()
        eigenvalues, v = torch.linalg.eigh(wide.mT @ wide)
        s = eigenvalues.clamp_min(0).sqrt()
        if _gram_is_exact(s, matrix):
            factor = (wide @ (v / s.unsqueeze(-2))) @ v.mT
            if matrix.dtype == torch.float64:
                # One step of Newton-Schulz takes P's columns from orthonormal to 1e-13 to 1e-15.
                factor = 1.5 * factor - 0.5 * factor @ (factor.mT @ factor)
            return factor.to(matrix.dtype), s.to(matrix.dtype), v.to(matrix.dtype)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh, s, vh.mT.contiguous()


def _gram_is_exact(s: Tensor, matrix: Tensor) -> bool:
    """Whether the float64 Gram matrix gave P as well as the dtype can hold it.

    Squaring makes the error grow with the square of the condition number. For float32 that is
    no loss down to the floor below which singular values count as zero.
    """
    if matrix.dtype == torch.float64:
        return bool((s > s.amax(-1, keepdim=True) / 30).all())
    return bool(_kept(s.to(matrix.dtype), matrix.shape[-2]).all())


def _kept(s: Tensor, rows: int) -> Tensor:
    """Mask of the singular values above rounding error."""
    floor = torch.finfo(s.dtype).eps * max(rows, s.shape[-1])
    return s > floor * s.amax(-1, keepdim=True)


def _pull_back(grad: Tensor, matrix: Tensor, factor: Tensor, s: Tensor, v: Tensor) -> Tensor:
    kept = _kept(s, matrix.shape[-2]).to(s.dtype).unsqueeze(-2)
    s = s.unsqueeze(-2)
    sums = s + s.mT
    inverse_sums = torch.where(sums > 0, 1 / sums, 0)
    inverse = torch.where(kept > 0, 1 / s, 0)

    def sylvester(a: Tensor) -> Tensor:  # solves X Q + Q X = a
        return v @ ((v.mT @ a @ v) * inverse_sums) @ v.mT

    def divide(a: Tensor) -> Tensor:  # solves Y Q = a
        return (a @ v) * inverse @ v.mT

    # Without missing rank this is the identity; with it, nothing depends on the columns that
    # the factorisation made up.
    row_space = (v * kept) @ v.mT
    grad, factor = grad @ row_space, factor @ row_space
    product = factor.mT @ grad
    skew, rest = product - product.mT, grad - factor @ product
    x, y = sylvester(skew), divide(rest)
    if torch.is_grad_enabled():
        # For second derivatives: one step of Newton's method, which changes no value but makes
        # the solutions depend on Q as they should, V and S being constants here.
        q = factor.mT @ matrix
        x, y = x.detach(), y.detach()
        x, y = x + sylvester(skew - x @ q - q @ x), y + divide(rest - y @ q)
    return (factor @ x + y) @ row_space
