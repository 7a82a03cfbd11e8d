"""U as a stored matrix: seeded random, or given by the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from etf_heads._precision import KeepsPrecision, at_least_float32
from etf_heads.orientation._base import Orientation


class DenseOrientation(Orientation):
    """Products with a stored matrix ``basis``, which is never kept below float32.

    In bfloat16 a Gram matrix is wrong by about 1e-3; the matrix is rounded only when used.
    """

    basis: Tensor

    def project(self, features: Tensor, scale: float = 1.0) -> Tensor:
        """Uᵀ h, times a number: (..., d) -> (..., n)."""
        coordinates = features @ self.basis.to(features.dtype)
        return coordinates if scale == 1 else coordinates * scale

    def lift(self, coordinates: Tensor) -> Tensor:
        """U z: (..., n) -> (..., d)."""
        return coordinates @ self.basis.to(coordinates.dtype).mT

    def matrix(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Tensor:
        """U itself, shape (d, n)."""
        return self.basis.to(dtype=dtype, device=device)


class RandomOrientation(DenseOrientation):
    r"""Orthonormal columns drawn from the Haar measure, the same ones for the same seed.

    The draw is made on the CPU in float64, so that devices agree. The matrix is rebuilt from the
    seed, never saved: ``state_dict`` does not hold it, and moving the module from the meta
    device, or to another dtype, makes it anew.

    Args:
        in_features: d.
        columns: n, at most d.
        seed: of the draw.
        device: where the matrix lives.
        dtype: what it is kept in; float32 where this is less.

    Example:
        >>> U = RandomOrientation(6, 3, seed=1, dtype=torch.float64).matrix()
        >>> torch.allclose(U.T @ U, torch.eye(3, dtype=U.dtype))
        True
    """

    def __init__(
        self,
        in_features: int,
        columns: int,
        seed: int = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, columns)
        self.seed = seed
        like = torch.empty(0, device=device, dtype=dtype)
        self.register_buffer("basis", self._draw(like), persistent=False)

    def reset_parameters(self) -> None:
        """Rebuild the matrix from the seed, in place of whatever storage holds now."""
        self.basis = self._draw(self.basis)

    def _draw(self, like: Tensor) -> Tensor:
        dtype = at_least_float32(like.dtype)
        if like.is_meta:
            return torch.empty(self.in_features, self.columns, dtype=dtype, device="meta")
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.in_features, self.columns)
        gaussian = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        q, r = torch.linalg.qr(gaussian)
        # Without the signs of R's diagonal the law of Q depends on the LAPACK in use.
        basis = (q * r.diagonal().sign()).contiguous()  # QR gives column-major order
        return basis.to(device=like.device, dtype=dtype)

    def arguments(self) -> dict[str, Any]:
        """Sizes, the seed, and what the matrix is kept in."""
        return {
            "in_features": self.in_features,
            "columns": self.columns,
            "seed": self.seed,
            "dtype": self.basis.dtype,
        }

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> RandomOrientation:
        before = self.basis
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.basis.dtype != before.dtype or self.basis.is_meta != before.is_meta:
            self.reset_parameters()
        return self

    def extra_repr(self) -> str:
        """Sizes and seed."""
        return f"{super().extra_repr()}, seed={self.seed}"


class MatrixOrientation(KeepsPrecision, DenseOrientation):
    r"""Orthonormal columns that the user gives; the one orientation kept in ``state_dict``.

    Args:
        matrix: U, shape (d, n), with :math:`U^\top U = I`.

    Raises:
        ValueError: if the columns are not orthonormal to 1e-4 (1e-8 in float64).

    Example:
        >>> MatrixOrientation(torch.eye(4)[:, 1:3]).project(torch.arange(4.0))
        tensor([1., 2.])
    """

    exact = ("basis",)

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or not matrix.is_floating_point():
            raise ValueError(
                "orientation must be a floating-point matrix of shape (in_features, columns), "
                f"got {matrix.dtype} of shape {tuple(matrix.shape)}"
            )
        super().__init__(*matrix.shape)
        matrix = matrix.detach().to(at_least_float32(matrix.dtype))
        matrix = matrix.clone(memory_format=torch.contiguous_format)  # safetensors asks for it
        if not matrix.is_meta:
            check_orthonormal(matrix)
        self.register_buffer("basis", matrix)

    def arguments(self) -> dict[str, Any]:
        """The shape of the matrix; its values are in ``state_dict``."""
        return {"matrix": torch.empty_like(self.basis, device="meta")}


def check_orthonormal(matrix: Tensor) -> None:
    """ValueError unless the columns are orthonormal to what the dtype allows."""
    gram = (matrix.mT @ matrix).double()
    error = (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max().item()
    tolerance = 1e-8 if matrix.dtype == torch.float64 else 1e-4
    if not error <= tolerance:  # also when the error is NaN
        raise ValueError(
            f"orientation must have orthonormal columns: Uᵀ U differs from the identity by "
            f"{error:.2g}, more than {tolerance:g}; torch.linalg.qr(matrix).Q has such columns"
        )
