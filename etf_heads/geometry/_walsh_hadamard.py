"""Products with Hadamard matrices that are never made."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads._precision import at_least_float32
from etf_heads._tracing import is_recorded
from etf_heads.geometry._transforms import hadamard


class WalshHadamard:
    r"""Products with the orthogonal matrix :func:`hadamard` of one size, for many tensors.

    :math:`H_n = A \otimes B` with A and B of about :math:`\sqrt n` rows makes it two matrix
    products, of :math:`2 n^{1.5}` multiply-adds a sample. At sizes of features they are faster
    than :math:`\log_2 n` passes of additions through memory, and fastest along the last but one
    axis, with samples in the last.

    Args:
        size: n, a power of two.
        dtype: of the tensors.
        device: of the tensors.

    Raises:
        ValueError: if n is not a power of two.

    Example:
        >>> transform = WalshHadamard(64, torch.float64)
        >>> x = torch.randn(3, 64, dtype=torch.float64)
        >>> torch.allclose(transform(x), x @ hadamard(64))
        True
    """

    def __init__(
        self, size: int, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> None:
        wide = at_least_float32(dtype)
        a, b = _factors(size, wide, torch.device("cpu") if device is None else device)
        self._a, self._b, self._rest = a.to(dtype), b.to(dtype), _rest(size)

    def __call__(self, values: Tensor, dim: int = -1) -> Tensor:
        """A new tensor of the same shape: values transformed along axis -1 or -2."""
        a, b = self._a, self._b
        if dim == -1:
            result = (_left(a, values.unflatten(-1, (len(a), len(b)))) @ b).flatten(-2)
        elif dim == -2:
            samples = values.shape[-1]
            rows = a @ values.unflatten(-2, (len(a), len(b))).flatten(-2)
            result = _left(b, rows.unflatten(-1, (len(b), samples))).flatten(-3, -2)
        else:
            raise ValueError(f"dim={dim}: choose from -1 and -2")
        return result if self._rest == 1 else result * self._rest


def hadamard_rows(indices: Tensor, size: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows of :func:`hadamard`, in O(size) each.

    Args:
        indices: integers (...) below size.
        size: a power of two.
        dtype: of the result.

    Returns:
        Tensor of shape (..., size).

    Example:
        >>> torch.allclose(hadamard_rows(torch.tensor([5, 2]), 8), hadamard(8)[[5, 2]])
        True
    """
    a, b = _factors(size, dtype, indices.device)
    rows = a[indices // len(b)].unsqueeze(-1) * b[indices % len(b)].unsqueeze(-2)
    return rows.flatten(-2) * _rest(size)


def _left(matrix: Tensor, batch: Tensor) -> Tensor:
    """Products matrix @ batch: (..., m, n) -> (..., m, n)."""
    # With more than one leading dimension torch would copy the matrix for each of the products.
    # A recorded graph, on the other hand, would hold the leading sizes of the example.
    if batch.ndim <= 3 or is_recorded():
        return matrix @ batch
    return (matrix @ batch.flatten(0, -3)).unflatten(0, batch.shape[:-2])


def _factors(size: int, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """A and B of powers of two, exact in every precision; their product is H but for _rest."""
    bits = size.bit_length() - 1
    if size != 2**bits:
        raise ValueError(f"size={size} is not a power of two")
    sizes = (2 ** (bits - bits // 2), 2 ** (bits // 2))
    a, b = (hadamard(n, dtype=dtype, device=torch.device(device)).sign() for n in sizes)
    return a * 0.5 ** (bits // 2), b


def _rest(size: int) -> float:
    return 1.0 if size.bit_length() % 2 else math.sqrt(0.5)
