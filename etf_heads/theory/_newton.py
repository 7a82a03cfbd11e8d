"""A trust-region Newton method for the factored problem; it stops on the duality gap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from etf_heads.theory._convex import FactoredProblem, Point
from etf_heads.theory._feature_hessians import FeatureHessians, feature_hessians
from etf_heads.theory._newton_model import NewtonModel
from etf_heads.theory._progress import Progress

_MAX_PRODUCTS = 500  # conjugate gradient iterations of one step
_MAX_REJECTIONS = 10  # of one step, the radius shrinking by 4 or more each time
_MAX_HALVINGS = 20  # of one tuple's feature step
# Below this share of the objective, differences of objectives are mostly round-off.
_ROUND_OFF = 1e-11
# Curvature along the rotations B -> B Q, which leave F as it is, is zero up to round-off: what
# counts as negative must be clearly so.
_FLAT = 1e-7


@dataclass(frozen=True, eq=False)
class Solution:
    """A point with its certificate: the minimum lies between the lower bound and the value."""

    point: Point
    lower_bound: float
    iterations: int

    @property
    def relative_gap(self) -> float:
        """Duality gap over the objective; round-off does not make it negative."""
        return max(0.0, self.point.value - self.lower_bound) / self.point.value


def minimise(
    problem: FactoredProblem, tolerance: float, max_iterations: int, progress: Progress
) -> Solution:
    """Minimise F until the relative duality gap is within the tolerance, or no step helps."""
    solution = _certified(problem, problem.zero(), -math.inf, 0)
    if solution.relative_gap <= tolerance:
        return solution
    solution = _certified(problem, problem.start(), solution.lower_bound, 0)
    hessians = feature_hessians(problem)
    radius = 0.5 * float(solution.point.factor.norm())
    while solution.relative_gap > tolerance and solution.iterations < max_iterations:
        progress.state = f"step {solution.iterations + 1}, gap {solution.relative_gap:.1e}"
        moved, radius = _advance(
            problem, solution, hessians, radius, tolerance=tolerance, progress=progress
        )
        if moved is None:
            break
        nearer = problem.proximal_step(moved)
        if nearer.value < moved.value:
            moved = nearer
        solution = _certified(problem, moved, solution.lower_bound, solution.iterations + 1)
    return solution


def _certified(
    problem: FactoredProblem, point: Point, best_bound: float, iterations: int
) -> Solution:
    """A point with the best lower bound so far: every point's bound holds for all."""
    return Solution(point, max(best_bound, problem.lower_bound(point)), iterations)


def _advance(
    problem: FactoredProblem,
    solution: Solution,
    hessians: FeatureHessians,
    radius: float,
    *,
    tolerance: float,
    progress: Progress,
) -> tuple[Point | None, float]:
    """One accepted step and the next radius; no point when round-off hides all progress."""
    gap = solution.relative_gap
    # Quadratic convergence, but no more than the tolerance asks for.
    accuracy = min(0.1, max(math.sqrt(gap), 0.1 * tolerance / gap))
    hessians.update(solution.point, accuracy)
    model = NewtonModel(problem, hessians)
    point = model.point
    for _ in range(_MAX_REJECTIONS):
        step, gain, at_boundary = _truncated_cg(problem, model, radius, accuracy, progress)
        factor = point.factor + step
        features = _damped(problem, point, factor, model.feature_step(step))
        moved = problem.point(factor, features)
        promised = gain + model.feature_gain
        if promised > _ROUND_OFF * point.value:
            ratio = (point.value - moved.value) / promised
        else:
            ratio = 1.0 if _slope(problem, moved) < _slope(problem, point) else 0.0
        if ratio > 0.75 and at_boundary:
            radius *= 2
        elif ratio < 0.25:
            radius = 0.25 * float(step.norm())
        if ratio > 1e-3:
            return moved, radius
    return None, radius


def _damped(problem: FactoredProblem, point: Point, factor: Tensor, step: Tensor) -> Tensor:
    """Features after their step. Given B, tuples are independent: each halves its own step."""
    class_vectors = problem.basis @ factor
    best = point.features + step
    values = problem.tuple_values(class_vectors, best)
    for halvings in range(1, _MAX_HALVINGS + 1):
        shorter = torch.add(point.features, step, alpha=0.5**halvings)
        shorter_values = problem.tuple_values(class_vectors, shorter)
        better = shorter_values < values - _ROUND_OFF * values.abs()
        if not better.any():
            break
        best = torch.where(better[:, None], shorter, best)
        values = torch.where(better, shorter_values, values)
    return best


def _slope(problem: FactoredProblem, point: Point) -> float:
    """Norm of F's gradient in both factors, tuples weighted by their shares."""
    shares = problem.shares[:, None]
    pull = (point.residuals * shares).T @ point.features
    factor = problem.strength * point.factor + problem.basis.T @ pull
    features = point.residuals @ point.class_vectors + problem.strength * point.features
    return math.sqrt(float(factor.square().sum() + (shares * features.square()).sum()))


def _truncated_cg(
    problem: FactoredProblem,
    model: NewtonModel,
    radius: float,
    accuracy: float,
    progress: Progress,
) -> tuple[Tensor, float, bool]:
    """Steihaug's conjugate gradients: minimise the model within the radius.

    Returns:
        The step, the decrease it promises, and whether it ends on the boundary.
    """
    step = torch.zeros_like(model.gradient)
    image = torch.zeros_like(step)  # of the step under the Hessian
    remainder = -model.gradient
    direction = remainder.clone()
    square = float(remainder.square().sum())
    goal = accuracy**2 * square
    at_boundary = False
    for _ in range(_MAX_PRODUCTS):
        progress.tick()
        product = model.hessian_product(direction)
        curvature = float((direction * product).sum())
        flat = _FLAT * problem.strength * float(direction.square().sum())
        if abs(curvature) <= flat:
            break
        length = square / curvature
        longest = _to_boundary(step, direction, radius)
        at_boundary = curvature < 0 or length >= longest
        length = longest if at_boundary else length
        step = step + length * direction
        image = image + length * product
        remainder = remainder - length * product
        previous, square = square, float(remainder.square().sum())
        if at_boundary or square <= goal:
            break
        direction = remainder + (square / previous) * direction
    gain = -float((model.gradient * step).sum() + 0.5 * (step * image).sum())
    return step, gain, at_boundary


def _to_boundary(step: Tensor, direction: Tensor, radius: float) -> float:
    """Distance from the step along the direction to the boundary of the trust region."""
    a = float(direction.square().sum())
    b = float((step * direction).sum())
    room = max(0.0, radius**2 - float(step.square().sum()))
    return room / (b + math.sqrt(b * b + a * room)) if room else 0.0
