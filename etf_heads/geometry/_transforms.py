"""Small orthogonal matrices whose first column is constant: Hadamard and discrete cosine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads._tasks import positive_int


def hadamard(
    size: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    r"""Orthogonal Walsh-Hadamard matrix in Sylvester's order, entries ±1/sqrt(size).

    Symmetric and its own inverse; the first column is constant.

    Args:
        size: a power of two.
        dtype: of the result.
        device: of the result.

    Returns:
        Tensor of shape (size, size).

    Raises:
        ValueError: if size is not a power of two.

    Example:
        >>> H = hadamard(8)
        >>> torch.allclose(H @ H, torch.eye(8, dtype=H.dtype))
        True
    """
    size = positive_int(size, "size")
    if size & (size - 1):
        raise ValueError(f"size={size} is not a power of two; dct(size) exists for every size")
    signs = torch.ones(1, 1, dtype=dtype, device=device)
    while len(signs) < size:
        top = torch.cat([signs, signs], dim=1)
        signs = torch.cat([top, torch.cat([signs, -signs], dim=1)], dim=0)
    return signs / math.sqrt(size)


def dct(
    size: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    r"""Orthogonal discrete cosine (type II) matrix, frequencies as columns.

    Column k is :math:`\sqrt{2/n} \cos(\pi (2i+1) k / 2n)` for k > 0 and constant for k = 0.

    Args:
        size: any positive number n.
        dtype: of the result.
        device: of the result.

    Returns:
        Tensor of shape (size, size).

    Example:
        >>> Q = dct(7)
        >>> torch.allclose(Q.T @ Q, torch.eye(7, dtype=Q.dtype))
        True
    """
    size = positive_int(size, "size")
    # The angle is a multiple of pi/2n: reducing it as an integer keeps large sizes exact.
    index = torch.arange(size, device=device)
    turns = ((2 * index[:, None] + 1) * index[None, :]) % (4 * size)
    matrix = torch.cos(turns.to(dtype) * (math.pi / (2 * size))) * math.sqrt(2 / size)
    matrix[:, 0] = 1 / math.sqrt(size)
    return matrix
