"""Class vectors with any given Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etf_heads._precision import KeepsPrecision, at_least_float32
from etf_heads._tasks import Tasks, TaskSpec
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
        tasks: K for one task, class counts by name or in order for several; None for one task of
            as many rows as G has, such as the targets of a regression, where one is enough.
        columns: one of the above; None for as many as there is room for (:meth:`fitting`), the
            first until then.

    Raises:
        ValueError: if G is not a Gram matrix of that shape, or does not fit into the columns.

    Example:
        >>> gram = torch.tensor([[1.0, -1.0, 0.6, -0.6], [-1.0, 1.0, -0.6, 0.6],
        ...                      [0.6, -0.6, 1.0, -1.0], [-0.6, 0.6, -1.0, 1.0]])
        >>> C = GramCode(gram, [2, 2], columns=2).matrix()
        >>> torch.allclose(C @ C.T, gram.double(), atol=1e-6)
        True
    """

    exact = ("factor",)
    factor: Tensor

    def __init__(
        self, gram: Tensor, tasks: TaskSpec | Tasks | None = None, columns: int | None = None
    ) -> None:
        rows = gram.shape[0] if gram.ndim else 0
        tasks = Tasks((rows,), single=True) if tasks is None else Tasks.parse(tasks)
        if gram.shape != (tasks.total, tasks.total) or not gram.is_floating_point():
            raise ValueError(
                f"gram must be a floating-point matrix of shape {(tasks.total, tasks.total)}, got "
                f"{gram.dtype} of shape {tuple(gram.shape)}"
            )
        super().__init__(tasks, tasks.total if columns is None else columns)
        self._spectrum: _Spectrum | None = None
        if gram.is_meta:
            factor = gram.new_empty(self.rows, self.columns)
        else:
            spectrum = _Spectrum.of(gram)
            factor = spectrum.factor(tasks, self.columns)
            self._spectrum = spectrum if columns is None else None
        self.register_buffer("factor", factor.to(at_least_float32(gram.dtype)).contiguous())

    def fitting(self, in_features: int, columns: int | None = None) -> Code:
        r"""The code in a feature space: with :math:`\sum K_t` columns, or as many as there are.

        Raises:
            ValueError: if G has a higher rank than there are dimensions, or columns.
        """
        if self._spectrum is None:
            return super().fitting(in_features, columns)
        rank = self._spectrum.rank
        if in_features < rank:
            raise ValueError(
                f"in_features={in_features} is too small for class vectors of this Gram matrix, "
                f"which span {rank} dimensions: {rank} needed"
            )
        if columns is None and in_features < self.rows:
            columns = min(in_features, max(rank, self.tasks.rank))
        factor = self.factor
        if columns not in (None, self.columns):
            factor = self._spectrum.factor(self.tasks, columns).to(factor).contiguous()
        fitted = GramCode(self._stand_in(), self.tasks, factor.shape[1])
        fitted.factor = factor
        return fitted

    def arguments(self) -> dict[str, Any]:
        """The shape of G; the values of C are in ``state_dict``."""
        tasks = None if self.rows == 1 else self.tasks  # one class alone is no task
        return {"gram": self._stand_in(), "tasks": tasks, "columns": self.columns}

    def _stand_in(self) -> Tensor:
        return torch.empty(self.rows, self.rows, dtype=self.factor.dtype, device="meta")

    def expand(self, coordinates: Tensor) -> Tensor:
        """Products C z: (..., columns) -> (..., sum K_t)."""
        return coordinates @ self.factor.to(coordinates.dtype).transpose(0, 1)

    def vectors(self, indices: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows of C: (...) -> (..., columns)."""
        return self.factor[indices].to(dtype)

    def matrix(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Tensor:
        """C itself, shape (sum K_t, columns)."""
        return self.factor.to(dtype=dtype, device=device)


def gram_rank(eigenvalues: Tensor) -> int:
    """Number of eigenvalues, given in ascending order, above 1e-6 of the largest."""
    return int((eigenvalues > 1e-6 * eigenvalues[-1]).sum())


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """Eigenvalues, ascending, and eigenvectors of a Gram matrix, in float64."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, gram: Tensor) -> _Spectrum:
        gram = gram.double()
        if not torch.allclose(gram, gram.mT, atol=1e-6 * float(gram.abs().max())):
            raise ValueError("gram must be symmetric and finite")
        values, vectors = torch.linalg.eigh(gram)
        if values[0] < -1e-6 * values[-1] or values[-1] <= 0:
            raise ValueError(
                f"gram must be positive semidefinite and not zero, its eigenvalues are from "
                f"{float(values[0]):.2g} to {float(values[-1]):.2g}"
            )
        return cls(values.clamp(min=0), vectors)

    @property
    def rank(self) -> int:
        return gram_rank(self.values)

    def factor(self, tasks: Tasks, columns: int) -> Tensor:
        """C of this many columns, see :class:`GramCode`."""
        if columns >= tasks.rank:
            root = (self.vectors * self.values.sqrt()) @ self.vectors.mT
            if columns == tasks.total:
                return root
            bases = (helmert(k, device=root.device) for k in tasks.sizes)
            basis: Tensor = torch.block_diag(*bases)
            if columns == tasks.rank and torch.allclose(root @ basis @ basis.mT, root, atol=1e-7):
                return root @ basis
        if self.rank <= columns <= tasks.total:
            return self.vectors.flip(1)[:, :columns] * self.values.flip(0)[:columns].sqrt()
        raise ValueError(
            f"a Gram matrix of rank {self.rank} takes {self.rank} to {tasks.total} columns, "
            f"the orientation has {columns}"
        )
