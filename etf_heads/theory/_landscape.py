"""Critical points of small models, and whether they are saddles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from etf_heads._tasks import positive_int

_SHRINK, _GROW = 1 / 3, 4.0  # of the damping after a step that helped, and one that did not
_LARGEST_DAMPING = 1e12


@dataclass(frozen=True)
class CriticalPoint:
    """A point where the gradient of a model vanishes.

    Attributes:
        value: of the objective.
        least_eigenvalue: of the Hessian; clearly negative at a strict saddle.
        gradient: Euclidean norm of what is left.
        parameters: all parameters in one vector.
    """

    value: float
    least_eigenvalue: float
    gradient: float
    parameters: Tensor


def critical_points(
    model: nn.Module,
    starts: int | Sequence[Tensor],
    *,
    scale: float = 1.0,
    tolerance: float = 1e-8,
    max_iterations: int = 500,
    generator: torch.Generator | None = None,
) -> list[CriticalPoint]:
    r"""Critical points of any kind, by least squares of the gradient.

    Levenberg and Marquardt's method minimises :math:`\|\nabla F\|^2`, with the Hessian as its
    Jacobian, and so ends at minima, saddles and maxima alike. Zhu et al. ("A geometric analysis of
    neural collapse with unconstrained features", NeurIPS 2021) prove that every critical point of
    the unconstrained feature model that is no global minimum is a strict saddle; this finds
    points to try that on, for any loss. Every iteration factors a dense Hessian: for models of up
    to a few hundred parameters.

    Args:
        model: called without arguments it gives the objective, such as
            :class:`UnconstrainedFeatureModel`; in float64. Its parameters end as they were.
        starts: how many normally distributed starts; or the starts themselves, vectors of all
            parameters, such as ones of reduced rank.
        scale: standard deviation of the starts.
        tolerance: norm of the gradient at which a point counts.
        max_iterations: of each start.
        generator: draws the starts; the global generator when None.

    Returns:
        One :class:`CriticalPoint` a start that converged, in order of value; points may repeat.

    Raises:
        ValueError: if starts is not a positive number or vectors of the model's size.

    Example:
        >>> from etf_heads.theory import UnconstrainedFeatureModel, balanced_optimum
        >>> model = UnconstrainedFeatureModel(torch.ones(3), 1e-2, 1e-2)
        >>> points = critical_points(model, 8, generator=torch.Generator().manual_seed(0))
        >>> least = balanced_optimum([3], 1e-2, 1e-2, 3).objective
        >>> all(p.value < least + 1e-9 or p.least_eigenvalue < -1e-6 for p in points)
        True
    """
    parameters = list(model.parameters())
    start = parameters_to_vector(parameters).detach().clone()
    if isinstance(starts, int):
        drawn = torch.randn(
            positive_int(starts, "starts"), len(start), generator=generator, dtype=torch.float64
        )
        starts = list((scale * drawn).to(start))
    wrong = [tuple(vector.shape) for vector in starts if vector.shape != start.shape]
    if wrong:
        raise ValueError(
            f"starts has a vector of shape {wrong[0]}; expected ({len(start)},), all parameters "
            "of the model"
        )
    objective = _objective_of(model)
    slope = torch.func.grad(objective)
    hessian = torch.func.hessian(objective)
    found = []
    for vector in starts:
        end = _descend(vector.to(start), slope, hessian, tolerance, max_iterations)
        gradient = float(slope(end).norm())
        if gradient < tolerance:
            least = float(torch.linalg.eigvalsh(hessian(end))[0])
            found.append(CriticalPoint(float(objective(end)), least, gradient, end))
    vector_to_parameters(start, parameters)
    return sorted(found, key=lambda point: point.value)


def _objective_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model's value as a function of one vector of all parameters."""
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def objective(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        each = zip(shapes.items(), parts, strict=True)
        named = {name: part.view(shape) for (name, shape), part in each}
        value: Tensor = torch.func.functional_call(model, named, ())
        return value

    return objective


def _descend(
    point: Tensor,
    slope: Callable[[Tensor], Tensor],
    hessian: Callable[[Tensor], Tensor],
    tolerance: float,
    max_iterations: int,
) -> Tensor:
    """Levenberg-Marquardt on the gradient: (H² + damping) step = -H gradient."""
    gradient, damping = slope(point), 1e-2
    for _ in range(max_iterations):
        if float(gradient.norm()) < tolerance or damping > _LARGEST_DAMPING:
            break
        values, axes = torch.linalg.eigh(hessian(point))
        turned = axes.T @ gradient
        while damping <= _LARGEST_DAMPING:
            moved = point - axes @ (values / (values.square() + damping) * turned)
            after = slope(moved)
            if after.norm() < gradient.norm():
                point, gradient = moved, after
                damping = max(damping * _SHRINK, 1e-18)
                break
            damping *= _GROW
    return point
