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

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from etf_heads.geometry import helmert
from etf_heads.theory._counts import JointCounts

_TINY = 1e-300


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

    def rotated(self, axes: Tensor) -> Point:
        """The same logits from factors in another orthonormal basis, the columns of ``axes``."""
        return replace(
            self,
            factor=self.factor @ axes,
            features=self.features @ axes,
            class_vectors=self.class_vectors @ axes,
        )


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
        r"""Every class with the logit gap that its own share of the samples would give it.

        A class k of task t alone at the dual bound leaves :math:`1 - p_k = (1 - 1/K)\, \tau /
        \sqrt{c_t s_k}` to the others in equal parts. For balanced, independent tasks this is the
        minimum; with one long-tailed task it is within a percent of it.
        """
        shares = torch.zeros_like(self.class_weights)
        shares.index_add_(0, self.rows.flatten(), self.shares.repeat_interleave(len(self.sizes)))
        others = 1 - self.members @ (1 / self.members.sum(0))
        missing = (self.strength / (self.class_weights * shares).sqrt()).clamp(max=1) * others
        gaps = (torch.log1p(-missing) - missing.log() + (others / (1 - others)).log()).clamp(
            min=0.1
        )
        # Logits of a tuple in the coordinates of B k: the tuple's rows of the Helmert bases.
        parts = (self.class_weights * gaps)[:, None] * self.basis
        coordinates = torch.nn.functional.embedding_bag(self.rows, parts, mode="sum")
        squares = (coordinates * self.shares[:, None]).T @ coordinates
        squares, axes = torch.linalg.eigh(squares)
        roots = squares.clamp(min=1e-6 * float(squares[-1])).pow(0.25)
        return self.point(axes * roots, (coordinates @ axes) / roots)

    def log_probabilities(self, class_vectors: Tensor, features: Tensor) -> Tensor:
        """Of every class in every tuple, shape (G, S)."""
        logits = features @ class_vectors.T
        return torch.cat([logits[:, rows].log_softmax(dim=1) for rows in self.slices], dim=1)

    def tuple_values(self, class_vectors: Tensor, features: Tensor) -> Tensor:
        """The bracket of F for each tuple, shape (G,)."""
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

    def proximal_step(self, point: Point) -> Point:
        r"""A proximal gradient step of the convex problem: it finds the rank.

        The loss has curvature at most 1/2 in :math:`M = D_s^{1/2} K B^\top`, so a gradient step
        of length 2, after which singular values shrink by :math:`2 \tau`, never ends higher.
        Directions that the optimum lacks get exactly zero; those that a saddle point lacks return.
        """
        stepped, sizes, axes = self._gradient_step(point)
        kept = (sizes - 2 * self.strength).clamp(min=0)
        features = stepped @ (axes * (kept.sqrt() / sizes.clamp(min=_TINY)))
        return self.point(axes * kept.sqrt(), features / self.shares.sqrt()[:, None])

    def lower_bound(self, point: Point) -> float:
        r"""The better of two dual values: of the probabilities, and of the singular vectors.

        What the proximal step cuts off, :math:`U \min(S / 2, \tau) V^\top`, is feasible as a
        residual. Near the optimum its gap is a Kullback-Leibler divergence of the two sets of
        probabilities, of second order in the distance where that of the first is of first order.
        """
        stepped, sizes, axes = self._gradient_step(point)
        cut = (0.5 * sizes).clamp(max=self.strength) / sizes.clamp(min=_TINY)
        residuals = stepped @ ((axes * cut) @ (axes.T @ self.basis.T))
        probabilities = -residuals / self.shares.sqrt()[:, None]
        wrong = probabilities.scatter_(1, self.rows, 0.0).clamp_(min=0)
        wrong *= (1 / (wrong @ self.members).clamp(min=1.0)) @ self.members.T  # at most 1 together
        return max(
            self._dual_value(wrong),
            self._dual_value(point.residuals.clamp(min=0) / self.class_weights),
        )

    def loss_hessian(self, point: Point, logits: Tensor) -> Tensor:
        """diag(p) - p pᵀ of every task, weighted, times logits: (G, S) -> (G, S)."""
        weighted = point.probabilities * logits
        means = (weighted @ self.members) @ self.members.T
        return weighted.sub_(means.mul_(point.probabilities)).mul_(self.class_weights)

    def _gradient_step(self, point: Point) -> tuple[Tensor, Tensor, Tensor]:
        """M after a gradient step of length 2; its singular values, its right singular vectors."""
        stepped = point.features @ point.factor.T - 2 * (point.residuals @ self.basis)
        stepped *= self.shares.sqrt()[:, None]
        squares, axes = torch.linalg.eigh(stepped.T @ stepped)
        return stepped, squares.clamp(min=0).sqrt(), axes

    def _dual_value(self, wrong: Tensor) -> float:
        """Of these probabilities of wrong classes, shrunk until the residuals are feasible."""
        missing = wrong @ self.members
        residuals = wrong.scatter(1, self.rows, -missing).mul_(self.class_weights) @ self.basis
        residuals *= self.shares.sqrt()[:, None]
        spectral_norm = torch.linalg.eigvalsh(residuals.T @ residuals)[-1].clamp(min=0).sqrt()
        scale = min(1.0, self.strength / max(float(spectral_norm), _TINY))
        feasible = (scale * wrong).scatter_(1, self.rows, 1 - scale * missing)
        entropies = torch.special.entr(feasible.clamp_(min=0))
        return float(self.shares @ (entropies @ self.class_weights))

    def _tuple_values(self, log_probabilities: Tensor, features: Tensor) -> Tensor:
        losses = -log_probabilities.gather(1, self.rows) @ self.task_weights
        return losses + 0.5 * self.strength * features.square().sum(1)
