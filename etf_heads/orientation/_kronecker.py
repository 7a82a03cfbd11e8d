"""U = columns of a Kronecker product of two small orthogonal matrices: a fast transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads._precision import at_least_float32
from etf_heads.geometry import dct, hadamard
from etf_heads.orientation._structured import StructuredOrientation


class KroneckerOrientation(StructuredOrientation):
    r"""Every column touches every feature, at O(d (p + q)) a sample for d = p q + few.

    The transform is :math:`Q = A_p \otimes B_q`, with p and q near :math:`\sqrt d`, and Hadamard
    (powers of two) or discrete cosine matrices A and B. At d a power of two it is the
    Walsh-Hadamard transform. Where d has no factors near its root, the nearest smaller product
    p q is taken, and the features left over, fewer than :math:`\sqrt d`, stay as they are.

    The constant column of Q comes last, so that with n < d no column sees the common mean that
    features behind a ReLU have; all the others sum to zero.

    A and B are made anew in each forward, from formulas: 2 sqrt(d) x sqrt(d) numbers.

    Example:
        >>> orientation = KroneckerOrientation(2039, 100)  # a prime
        >>> U = orientation.matrix()
        >>> torch.allclose(U.T @ U, torch.eye(100, dtype=U.dtype))
        True
    """

    def __init__(self, in_features: int, columns: int) -> None:
        super().__init__(in_features, columns)
        root = math.isqrt(in_features)
        self._q = min(range(root, root // 2, -1), key=lambda q: in_features % q)
        self._p = in_features // self._q
        # The first columns of Q in row-major order need only the first columns of A.
        self._a_columns = min(self._p, columns // self._q + 1)

    def raw_project(self, features: Tensor, scale: float) -> Tensor:
        """Transform and keep n columns: (..., d) -> (..., n)."""
        size = self._p * self._q
        grid = features[..., :size].unflatten(-1, (self._p, self._q))
        a, b = self._factors(features)
        spectrum = ((a.mT @ grid) @ (b * scale)).flatten(-2)
        if self.columns < size:
            return spectrum[..., 1 : self.columns + 1]
        rest = features[..., size:] * scale
        ordered = torch.cat([spectrum[..., 1:], rest, spectrum[..., :1]], dim=-1)
        return ordered[..., : self.columns]

    def raw_lift(self, coordinates: Tensor, scale: float) -> Tensor:
        """Inverse transform of coordinates padded with zeros: (..., n) -> (..., d)."""
        size = self._p * self._q
        padded = F.pad(coordinates * scale, (0, self.in_features - self.columns))
        spectrum = torch.cat([padded[..., -1:], padded[..., : size - 1]], dim=-1)
        rest = padded[..., size - 1 : -1]
        kept = spectrum[..., : self._a_columns * self._q]
        a, b = self._factors(coordinates)
        grid = (a @ kept.unflatten(-1, (self._a_columns, self._q))) @ b.mT
        return torch.cat([grid.flatten(-2), rest], dim=-1)

    def _factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        dtype = at_least_float32(like.dtype)
        a = _small_orthogonal(self._p, dtype, like.device)[:, : self._a_columns]
        b = _small_orthogonal(self._q, dtype, like.device)
        return a.to(like.dtype), b.to(like.dtype)


def _small_orthogonal(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    make = dct if size & (size - 1) else hadamard
    return make(size, dtype=dtype, device=device)
