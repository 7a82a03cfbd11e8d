"""Class vectors with any given Gram matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etf_heads._precision import KeepsPrecision, at_least_float32
from etf_heads._tasks import Tasks
from etf_heads.codes._base import Code
from etf_heads.geometry import helmert


class GramCode(KeepsPrecision, Code):
    r"""A code C with :math:`C C^\top = G` for a Gram matrix G, in as many columns as asked for.

    - :math:`\sum K_t` columns: the symmetric square root :math:`G^{1/2}`.
    - :math:`\sum K_t - T` columns: :math:`G^{1/2} \mathrm{diag}(E_1, \dots, E_T)` with Helmert
      bases E_t, for class vectors that sum to zero within each task.
    - fewer, down to the rank of G: :math:`V \Lambda^{1/2}` of the eigendecomposition.

    The first two are unique, and at the compound ETF's Gram matrix equal
    :class:`~etf_heads.codes.SimplexCode`. C is data, not a formula, so it is kept in
    ``state_dict``.

    Args:
        gram: G, symmetric positive semidefinite of shape (sum K_t, sum K_t).
        tasks: class counts.
        columns: one of the above.

    Raises:
        ValueError: if G is not a Gram matrix of that shape, or does not fit into the columns.

    Example:
        >>> gram = torch.tensor([[1.0, -1.0, 0.6, -0.6], [-1.0, 1.0, -0.6, 0.6],
        ...                      [0.6, -0.6, 1.0, -1.0], [-0.6, 0.6, -1.0, 1.0]])
        >>> C = GramCode(gram, Tasks.parse([2, 2]), columns=2).matrix()
        >>> torch.allclose(C @ C.T, gram.double(), atol=1e-6)
        True
    """

    exact = ("factor",)
    factor: Tensor

    def __init__(self, gram: Tensor, tasks: Tasks, columns: int) -> None:
        super().__init__(tasks.total, columns)
        self.tasks = tasks
        if gram.shape != (tasks.total, tasks.total) or not gram.is_floating_point():
            raise ValueError(
                f"gram must be a floating-point matrix of shape {(tasks.total, tasks.total)}, got "
                f"{gram.dtype} of shape {tuple(gram.shape)}"
            )
        dtype = at_least_float32(gram.dtype)
        factor = gram.new_empty(tasks.total, columns)
        if not gram.is_meta:
            factor = _factor(gram, tasks, columns)
        self.register_buffer("factor", factor.to(dtype).contiguous())

    def arguments(self) -> dict[str, Any]:
        """The shape of G; the values of C are in ``state_dict``."""
        shape = (self.rows, self.rows)
        gram = torch.empty(shape, dtype=self.factor.dtype, device="meta")
        return {"gram": gram, "tasks": self.tasks, "columns": self.columns}

    def expand(self, coordinates: Tensor) -> Tensor:
        """Products C z: (..., columns) -> (..., sum K_t)."""
        return coordinates @ self.factor.to(coordinates.dtype).mT

    def matrix(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Tensor:
        """C itself, shape (sum K_t, columns)."""
        return self.factor.to(dtype=dtype, device=device)

    def extra_repr(self) -> str:
        """Sizes, for ``print(module)``."""
        return f"classes={list(self.tasks.sizes)}, columns={self.columns}"


def gram_rank(eigenvalues: Tensor) -> int:
    """Number of eigenvalues, given in ascending order, above 1e-6 of the largest."""
    return int((eigenvalues > 1e-6 * eigenvalues[-1]).sum())


def _factor(gram: Tensor, tasks: Tasks, columns: int) -> Tensor:
    values, vectors = _spectrum(gram)
    rank = gram_rank(values)
    root = (vectors * values.sqrt()) @ vectors.mT
    basis: Tensor = torch.block_diag(*(helmert(k, device=gram.device) for k in tasks.sizes))
    if columns == tasks.total:
        return root
    if columns == tasks.rank and torch.allclose(root @ basis @ basis.mT, root, atol=1e-7):
        return root @ basis
    if rank <= columns <= tasks.total:
        return vectors.flip(1)[:, :columns] * values.flip(0)[:columns].sqrt()
    raise ValueError(
        f"a Gram matrix of rank {rank} takes {rank} to {tasks.total} columns, "
        f"the orientation has {columns}"
    )


def _spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    gram = gram.double()
    if not torch.allclose(gram, gram.mT, atol=1e-6 * float(gram.abs().max())):
        raise ValueError("gram must be symmetric and finite")
    values, vectors = torch.linalg.eigh(gram)
    if values[0] < -1e-6 * values[-1] or values[-1] <= 0:
        raise ValueError(
            f"gram must be positive semidefinite and not zero, its eigenvalues are from "
            f"{float(values[0]):.2g} to {float(values[-1]):.2g}"
        )
    return values.clamp(min=0), vectors
