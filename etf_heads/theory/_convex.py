r"""The convex problem behind the unconstrained feature model, in factored form, with certificate.

In logits Z the unconstrained feature model is a convex problem (see :func:`optimal_gram`). The
factors used here are scaled so that one number is left of λ_W, λ_H and N, namely
:math:`\tau = 2 \sqrt{\lambda_W \lambda_H N}`, and class vectors are centred within their task,
which softmax does not see and which the optimum has. With shares :math:`s_g = n_g / N`, the
Helmert bases of all tasks in one block-diagonal matrix, :math:`C = D_c^{-1/2} \mathrm{diag}(E_t)`,
and :math:`r = \sum_t K_t - T`,

.. math:: F(B, k) = \sum_g s_g \left[\ell_g(C B k_g) + \tfrac\tau2 \|k_g\|^2\right]
          + \tfrac\tau2 \|B\|^2, \qquad B \in \mathbb R^{r \times r},\ k_g \in \mathbb R^r

with :math:`\ell_g` the weighted cross-entropy of tuple g, has the convex problem's minimum. The
dual problem is to maximise the entropy of the predicted probabilities under a bound on the
residuals' spectral norm,

.. math:: \max_p \sum_g s_g \sum_t c_t H(p^t_g) \quad\text{such that}\quad
          \| R(p) \|_2 \le \tau, \quad R_g = \sqrt{s_g}\, D_c^{1/2} (p_g - y_g),

and any p becomes feasible when moved towards the labels y, which shrinks R: so every point has a
lower bound of the minimum to show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from etf_heads.geometry import helmert
from etf_heads.theory._closed_form import logit_gap
from etf_heads.theory._counts import JointCounts

_CHUNK_ENTRIES = 2**20  # float64 entries of a temporary array: 8 MiB stay in cache


@dataclass(frozen=True, eq=False)
class Point:
    """A pair of factors, and what the loss looks like there.

    Attributes:
        factor: B of shape (r, r).
        features: k of shape (G, r).
        class_vectors: C B of shape (S, r), S = sum K_t.
        probabilities: p of shape (G, S).
        residuals: c (p - y), the loss gradient of each tuple in its logits, shape (G, S).
        value: F(B, k), an upper bound of the convex problem's minimum.
    """

    factor: Tensor
    features: Tensor
    class_vectors: Tensor
    probabilities: Tensor
    residuals: Tensor
    value: float


class FactoredProblem:
    """F of this module for given counts, τ (``strength``) and task weights."""

    def __init__(self, counts: JointCounts, strength: float, task_weights: Tensor) -> None:
        tasks = counts.tasks
        device = counts.counts.device
        sizes = torch.tensor(tasks.sizes, device=device)
        self.sizes = tasks.sizes
        self.slices = tasks.slices
        self.strength = strength
        self.shares = counts.counts / counts.total  # shape: (G,)
        self.rows = counts.rows  # shape: (G, T)
        self.task_weights = task_weights.to(device)
        self.class_weights = self.task_weights.repeat_interleave(sizes)  # shape: (S,)
        bases = [helmert(k, device=device) for k in self.sizes]
        basis: Tensor = torch.block_diag(*bases)
        self.basis = basis / self.class_weights.sqrt()[:, None]  # C, shape: (S, r)
        ones = [torch.ones(k, 1, dtype=basis.dtype, device=device) for k in self.sizes]
        self.members: Tensor = torch.block_diag(*ones)

    def zero(self) -> Point:
        """The zero head, which is the minimum when regularisation is strong."""
        rank = self.basis.shape[1]
        return self.point(
            self.basis.new_zeros(rank, rank), self.basis.new_zeros(len(self.rows), rank)
        )

    def start(self) -> Point:
        """The minimum if the tasks were balanced and independent, kept away from zero."""
        scales = []
        for size, weight in zip(self.sizes, self.task_weights.tolist(), strict=True):
            gap = logit_gap(size, self.strength / 2, self.strength / 2, 1.0, weight)
            scales += [math.sqrt(max(gap, 0.1) * math.sqrt(weight / size))] * (size - 1)
        factor = torch.diag(self.basis.new_tensor(scales))
        sizes = torch.tensor(self.sizes, device=factor.device)
        feature_scales = (self.task_weights * sizes).sqrt().repeat_interleave(sizes)
        parts = feature_scales[:, None] * (self.basis @ factor)
        features = torch.nn.functional.embedding_bag(self.rows, parts, mode="sum")
        return self.point(factor, features)

    def log_probabilities(self, class_vectors: Tensor, features: Tensor) -> Tensor:
        """Of every class in every tuple, shape (G, S)."""
        logits = features @ class_vectors.T
        return torch.cat([logits[:, rows].log_softmax(dim=1) for rows in self.slices], dim=1)

    def tuple_values(self, class_vectors: Tensor, features: Tensor) -> Tensor:
        """What stands in the bracket of F, shape (G,)."""
        return self._tuple_values(self.log_probabilities(class_vectors, features), features)

    def point(self, factor: Tensor, features: Tensor) -> Point:
        """Everything of first order at these factors."""
        class_vectors = self.basis @ factor
        log_probabilities = self.log_probabilities(class_vectors, features)
        values = self._tuple_values(log_probabilities, features)
        value = float(self.shares @ values + 0.5 * self.strength * factor.square().sum())
        probabilities = log_probabilities.exp_()
        # p_y - 1 as minus the sum of the others, which keeps its digits when p_y is nearly 1.
        residuals = probabilities.scatter(1, self.rows, 0.0)
        residuals.scatter_(1, self.rows, -(residuals @ self.members)).mul_(self.class_weights)
        return Point(factor, features, class_vectors, probabilities, residuals, value)

    def lower_bound(self, point: Point) -> float:
        """Dual value of the point's probabilities, moved towards the labels until feasible."""
        residuals = (point.residuals @ self.basis) * self.shares.sqrt()[:, None]
        spectral_norm = torch.linalg.eigvalsh(residuals.T @ residuals)[-1].clamp(min=0).sqrt()
        scale = min(1.0, self.strength / float(spectral_norm)) if spectral_norm > 0 else 1.0
        # y + scale (p - y), written so that no new array of labels is needed
        feasible = point.probabilities + (scale - 1) / self.class_weights * point.residuals
        entropies = torch.special.entr(feasible.clamp_(min=0))
        return float(self.shares @ (entropies @ self.class_weights))

    def _tuple_values(self, log_probabilities: Tensor, features: Tensor) -> Tensor:
        losses = -log_probabilities.gather(1, self.rows) @ self.task_weights
        return losses + 0.5 * self.strength * features.square().sum(1)


class NewtonModel:
    r"""Second-order model of F at a point, the features eliminated.

    For a step V of B the best second-order step of a tuple's features is
    :math:`-Q_g^{-1} (\gamma_g + J_g V)`, with :math:`\gamma_g` the bracket's gradient in the
    features, :math:`Q_g` its Hessian and :math:`J_g` its mixed derivative. What is left is a
    quadratic in V alone: its gradient and products with its Hessian are here.

    Attributes:
        gradient: of the model in V, shape (r, r).
        feature_gain: decrease that the features' own Newton step promises.
    """

    def __init__(self, problem: FactoredProblem, point: Point, inverses: Tensor) -> None:
        """``inverses`` is memory for the inverses of all Q_g, shape (G, r, r)."""
        self.problem, self.point = problem, point
        self.inverses = inverses
        self._invert_hessians()
        slopes = point.residuals @ point.class_vectors + problem.strength * point.features
        self._own_step = -self._solve(slopes)
        self._weighted_residuals = point.residuals * problem.shares[:, None]
        self.feature_gain = -0.5 * float(problem.shares @ (slopes * self._own_step).sum(1))
        plain = problem.strength * point.factor + self._to_factor(point.features)
        curved = self._mixed_adjoint(self._own_step, self._own_step @ point.class_vectors.T)
        self.gradient = plain + curved

    def hessian_product(self, step: Tensor) -> Tensor:
        """The model's Hessian times a step of B: (r, r) -> (r, r)."""
        moved_logits = self.point.features @ (self.problem.basis @ step).T
        answer = -self._solve(self._mixed(step, moved_logits))
        moved_logits += answer @ self.point.class_vectors.T
        return self.problem.strength * step + self._mixed_adjoint(answer, moved_logits)

    def feature_step(self, step: Tensor) -> Tensor:
        """Best step of the features beside a step of B, shape (G, r)."""
        moved_logits = self.point.features @ (self.problem.basis @ step).T
        return self._own_step - self._solve(self._mixed(step, moved_logits))

    def _mixed(self, step: Tensor, moved_logits: Tensor) -> Tensor:
        """J_g V of all tuples; ``moved_logits`` are those that V moves at fixed features."""
        turned = self.point.residuals @ (self.problem.basis @ step)
        return turned + self._loss_hessian(moved_logits) @ self.point.class_vectors

    def _mixed_adjoint(self, features: Tensor, moved_logits: Tensor) -> Tensor:
        """Sum over tuples of s_g times the adjoint of J_g, and what the moved logits add."""
        bent = self._loss_hessian(moved_logits).mul_(self.problem.shares[:, None])
        return self._to_factor(features) + self.problem.basis.T @ (bent.T @ self.point.features)

    def _to_factor(self, features: Tensor) -> Tensor:
        return self.problem.basis.T @ (self._weighted_residuals.T @ features)

    def _loss_hessian(self, logits: Tensor) -> Tensor:
        """diag(p) - p pᵀ of every task, weighted, times logits: (G, S) -> (G, S)."""
        members = self.problem.members
        weighted = self.point.probabilities * logits
        means = (weighted @ members) @ members.T
        return weighted.sub_(means.mul_(self.point.probabilities)).mul_(self.problem.class_weights)

    def _solve(self, right: Tensor) -> Tensor:
        return torch.bmm(self.inverses, right[:, :, None]).squeeze(2)

    def _invert_hessians(self) -> None:
        r"""Q_g = sum_t c_t [sum_k p_k w_k w_kᵀ - m_t m_tᵀ] + τ I with m_t = sum_k p_k w_k.

        A binary task's bracket is p_0 p_1 (w_0 - w_1) (w_0 - w_1)ᵀ, half the work.
        """
        problem, rank = self.problem, self.problem.basis.shape[1]
        scaled = self.point.class_vectors * problem.class_weights.sqrt()[:, None]
        pairs = [rows for rows in problem.slices if rows.stop - rows.start == 2]
        others = [rows for rows in problem.slices if rows.stop - rows.start > 2]
        spread = [scaled[rows][:1] - scaled[rows][1:] for rows in pairs]
        vectors = torch.cat(spread + [scaled[rows] for rows in others])
        outer = (vectors[:, :, None] * vectors[:, None, :]).flatten(1)
        chunk = max(1, _CHUNK_ENTRIES // (rank * rank))
        for first in range(0, len(self.inverses), chunk):
            p = self.point.probabilities[first : first + chunk]
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
