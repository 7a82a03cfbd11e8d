r"""Solving with the features' Hessians of all label tuples at once.

A tuple's bracket in :mod:`etf_heads.theory._convex` has in its features the Hessian

.. math:: Q_g = \tau I + \sum_t c_t \sum_k p_k w_k w_k^\top - c_t\, m_t m_t^\top,
          \qquad m_t = \sum_k p_k w_k

With few dimensions a task all inverses are kept. With many they would be :math:`G r^2` numbers and
:math:`G r^3` work, and the structure of the optimum helps: with y the tuple's class of task t, and
:math:`\rho` the probabilities of the wrong classes divided by their sum,

.. math:: \textstyle\sum_k p_k w_k w_k^\top - m_t m_t^\top = p_y (1 - p_y)\, z z^\top
          + (1 - p_y)\, \mathrm{Cov}_\rho(w), \qquad z = w_y - \textstyle\sum_k \rho_k w_k

where ρ hardly depends on the tuple (in one task the wrong classes' probabilities are nearly of
rank one). So a diagonal in one basis for all tuples, plus one vector a task, is within a few
percent of every :math:`Q_g`, and conjugate gradients so preconditioned need two or three products.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from etf_heads.theory._convex import FactoredProblem, Point

_CHUNK_ENTRIES = 2**20  # float64 entries of a temporary array: 8 MiB stay in cache
_EXPLICIT_RANK = 32  # dimensions a task up to which inverses are faster than iterations
_EXPLICIT_ENTRIES = 2**28  # and float64 entries that they may take: 2 GiB
_MAX_ITERATIONS = 100
_TINY = 1e-300


class FeatureHessians(Protocol):
    """All Q_g at a point."""

    point: Point

    def update(self, point: Point, accuracy: float) -> None:
        """Move to this point; ``self.point`` is the same one, perhaps in another basis."""

    def solve(self, right: Tensor) -> Tensor:
        """Q_g⁻¹ times each row: (G, r) -> (G, r)."""


def feature_hessians(problem: FactoredProblem) -> FeatureHessians:
    """The representation that suits the size of the problem."""
    rank, tasks = problem.basis.shape[1], len(problem.sizes)
    if rank > _EXPLICIT_RANK * tasks or len(problem.rows) * rank**2 > _EXPLICIT_ENTRIES:
        return IterativeHessians(problem)
    return ExplicitHessians(problem)


class ExplicitHessians:
    """The inverses of all Q_g, as (G, r, r) numbers."""

    def __init__(self, problem: FactoredProblem) -> None:
        rank = problem.basis.shape[1]
        self.problem = problem
        self.inverses = problem.basis.new_empty(len(problem.rows), rank, rank)

    def update(self, point: Point, accuracy: float) -> None:  # noqa: ARG002
        """A binary task's part is p_0 p_1 (w_0 - w_1) (w_0 - w_1)ᵀ, half the work."""
        self.point = point
        problem, rank = self.problem, self.problem.basis.shape[1]
        scaled = point.class_vectors * problem.class_weights.sqrt()[:, None]
        pairs = [rows for rows in problem.slices if rows.stop - rows.start == 2]
        others = [rows for rows in problem.slices if rows.stop - rows.start > 2]
        spread = [scaled[rows][:1] - scaled[rows][1:] for rows in pairs]
        vectors = torch.cat(spread + [scaled[rows] for rows in others])
        outer = (vectors[:, :, None] * vectors[:, None, :]).flatten(1)
        chunk = max(1, _CHUNK_ENTRIES // (rank * rank))
        for first in range(0, len(self.inverses), chunk):
            p = point.probabilities[first : first + chunk]
            variances = [p[:, rows].prod(dim=1, keepdim=True) for rows in pairs]
            weights = torch.cat(variances + [p[:, rows] for rows in others], dim=1)
            hessians = (weights @ outer).reshape(-1, rank, rank)
            if others:
                means = torch.stack([p[:, rows] @ scaled[rows] for rows in others], dim=1)
                hessians.baddbmm_(means.mT, means, alpha=-1)
            hessians.diagonal(dim1=1, dim2=2).add_(problem.strength)
            out = self.inverses[first : first + chunk]
            # Symmetric; transposed, LAPACK writes in place.
            torch.cholesky_inverse(torch.linalg.cholesky(hessians), out=out.mT)

    def solve(self, right: Tensor) -> Tensor:
        """Q_g⁻¹ times each row."""
        return torch.bmm(self.inverses, right[:, :, None]).squeeze(2)


class IterativeHessians:
    """Products with all Q_g, and a preconditioner: O(G S) memory, O(G S r) work."""

    def __init__(self, problem: FactoredProblem) -> None:
        self.problem = problem

    def update(self, point: Point, accuracy: float) -> None:
        """The preconditioner at this point, in the basis in which its common part is diagonal."""
        problem = self.problem
        self.accuracy = 1e-2 * accuracy
        wrong = point.residuals.clamp(min=0)  # c p of the wrong classes
        missing = wrong @ problem.members  # c (1 - p_y), shape: (G, T)
        shape = (wrong / (missing @ problem.members.T).clamp(min=_TINY)).mean(0)  # average ρ
        weighted = point.class_vectors * shape[:, None]
        common = [
            point.class_vectors[rows].T @ weighted[rows]
            - torch.outer(weighted[rows].sum(0), weighted[rows].sum(0))
            for rows in problem.slices
        ]
        sizes = torch.stack([part.trace() for part in common])
        spectrum, axes = torch.linalg.eigh(torch.stack(common).sum(0))
        self.point = point.rotated(axes)
        amounts = (missing @ sizes) / sizes.sum().clamp(min=_TINY)
        self.diagonal = problem.strength + amounts[:, None] * spectrum.clamp(min=0)
        right = point.probabilities.gather(1, problem.rows)
        factors = (right / (problem.task_weights * missing).clamp(min=_TINY)).sqrt()
        factors *= problem.task_weights.sqrt()
        slopes = [
            self.point.residuals[:, rows] @ self.point.class_vectors[rows]
            for rows in problem.slices
        ]
        self.spikes = torch.stack(slopes, dim=1) * factors[:, :, None]  # shape: (G, T, r)
        inner = (self.spikes / self.diagonal[:, None]) @ self.spikes.mT
        inner.diagonal(dim1=1, dim2=2).add_(1.0)
        self.inner = torch.linalg.cholesky(inner)

    def solve(self, right: Tensor) -> Tensor:
        """Preconditioned conjugate gradients, all tuples side by side."""
        answer = self._precondition(right)
        goal = self.accuracy * right.norm(dim=1)
        remainder = right - self._product(answer)
        direction = preconditioned = self._precondition(remainder)
        square = (remainder * preconditioned).sum(1)
        for _ in range(_MAX_ITERATIONS):
            if not (remainder.norm(dim=1) > goal).any():
                break
            product = self._product(direction)
            length = square / (direction * product).sum(1).clamp(min=_TINY)
            answer = answer + length[:, None] * direction
            remainder = remainder - length[:, None] * product
            preconditioned = self._precondition(remainder)
            previous, square = square, (remainder * preconditioned).sum(1)
            ratio = square / previous.clamp(min=_TINY)
            direction = preconditioned + ratio[:, None] * direction
        return answer

    def _product(self, features: Tensor) -> Tensor:
        vectors = self.point.class_vectors
        bent = self.problem.loss_hessian(self.point, features @ vectors.T)
        return torch.addmm(self.problem.strength * features, bent, vectors)

    def _precondition(self, right: Tensor) -> Tensor:
        scaled = right / self.diagonal
        inner = torch.cholesky_solve(self.spikes @ scaled[:, :, None], self.inner)
        return scaled - (inner.mT @ self.spikes).squeeze(1) / self.diagonal
