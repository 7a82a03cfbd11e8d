"""The second-order model of the factored problem, its features eliminated."""

from __future__ import annotations

from torch import Tensor

from etf_heads.theory._convex import FactoredProblem
from etf_heads.theory._feature_hessians import FeatureHessians


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

    def __init__(self, problem: FactoredProblem, hessians: FeatureHessians) -> None:
        self.problem, self.hessians = problem, hessians
        self.point = point = hessians.point
        slopes = point.residuals @ point.class_vectors + problem.strength * point.features
        self._own_step = -self.hessians.solve(slopes)
        self._weighted_residuals = point.residuals * problem.shares[:, None]
        self.feature_gain = -0.5 * float(problem.shares @ (slopes * self._own_step).sum(1))
        plain = problem.strength * point.factor + self._to_factor(point.features)
        curved = self._mixed_adjoint(self._own_step, self._own_step @ point.class_vectors.T)
        self.gradient = plain + curved

    def hessian_product(self, step: Tensor) -> Tensor:
        """The model's Hessian times a step of B: (r, r) -> (r, r)."""
        moved_logits = self.point.features @ (self.problem.basis @ step).T
        answer = -self.hessians.solve(self._mixed(step, moved_logits))
        moved_logits += answer @ self.point.class_vectors.T
        return self.problem.strength * step + self._mixed_adjoint(answer, moved_logits)

    def feature_step(self, step: Tensor) -> Tensor:
        """Best step of the features beside a step of B, shape (G, r)."""
        moved_logits = self.point.features @ (self.problem.basis @ step).T
        return self._own_step - self.hessians.solve(self._mixed(step, moved_logits))

    def _mixed(self, step: Tensor, moved_logits: Tensor) -> Tensor:
        """J_g V of all tuples; ``moved_logits`` are those that V moves at fixed features."""
        turned = self.point.residuals @ (self.problem.basis @ step)
        return (
            turned + self.problem.loss_hessian(self.point, moved_logits) @ self.point.class_vectors
        )

    def _mixed_adjoint(self, features: Tensor, moved_logits: Tensor) -> Tensor:
        """Sum over tuples of s_g times the adjoint of J_g, and what the moved logits add."""
        bent = self.problem.loss_hessian(self.point, moved_logits).mul_(
            self.problem.shares[:, None]
        )
        return self._to_factor(features) + self.problem.basis.T @ (bent.T @ self.point.features)

    def _to_factor(self, features: Tensor) -> Tensor:
        return self.problem.basis.T @ (self._weighted_residuals.T @ features)
