"""Critical points of small unconstrained feature models, and gradient flow from a Hadamard start.

Two studies without images. Zhu et al. ("A geometric analysis of neural collapse with unconstrained
features", NeurIPS 2021) and its successors for other losses: every critical point that is no global
minimum is a strict saddle. And two linear layers that start from Hadamard matrices keep their
singular vectors, so that collapse can be followed in time (``etf_heads.theory.spectral_flow``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from etf_heads.geometry import hadamard_init
from etf_heads.theory import (
    CrossEntropy,
    Focal,
    GapLoss,
    SquaredError,
    UnconstrainedFeatureModel,
    balanced_optimum,
    critical_points,
    spectral_flow,
    sphere_optimum,
)
from recipes.verification.descent import minimise


@dataclass(frozen=True)
class Case:
    """A kind of unconstrained feature model.

    Attributes:
        loss: of its one task; cross-entropy where it is None.
        normalised: the scale of its cosines, or None.
    """

    loss: GapLoss | None = None
    normalised: float | None = None

    @property
    def scales(self) -> tuple[float, ...]:
        """Standard deviations of the starts; on the sphere lengths make no difference."""
        return (0.5, 1.5, 4.0) if self.normalised is None else (1.0,)

    @property
    def iterations(self) -> int:
        """At most, of each start: on the sphere those that converge do so soon, and many do not."""
        return 500 if self.normalised is None else 80

    def model(
        self, classes: int, dim: int, generator: torch.Generator | None = None
    ) -> UnconstrainedFeatureModel:
        """A balanced model of so many classes and dimensions."""
        return UnconstrainedFeatureModel(
            torch.full((classes,), float(EACH)),
            *LAMBDAS,
            dim=dim,
            losses=self.loss,
            normalised=self.normalised,
            generator=generator,
        )

    def least(self, classes: int) -> float:
        """The closed form of its global minimum."""
        if self.normalised is not None:
            return sphere_optimum(classes, self.normalised).loss
        n = EACH * classes
        return balanced_optimum([classes], *LAMBDAS, n, losses=self.loss).objective


CASES = {
    "cross-entropy": Case(),
    "label smoothing 0.1": Case(CrossEntropy(label_smoothing=0.1)),
    "squared error": Case(SquaredError()),
    "focal loss, γ = 2": Case(Focal(2.0)),
    "focal loss, γ = 5": Case(Focal(5.0)),
    "normalised, s = 1": Case(normalised=1.0),
    "normalised, s = 5": Case(normalised=5.0),
}
SIZES = ((3, 2), (3, 3), (4, 3), (4, 5))
"""Classes and dimensions of the models; descents take the first of each number of classes."""

LAMBDAS = (5e-3, 1e-4)
EACH = 4  # samples of each class

UNEQUAL = (1.0, 4.0, 0.01, 0.02, 3.0, 0.01, 0.05, 2.0)
"""Singular values of the logits at a start from which collapse is out of reach."""


@dataclass(frozen=True)
class Check:
    """A number that is found, and the criterion that it is held against."""

    study: str  # "landscape" or "hadamard"
    name: str  # what it is
    found: float  # the number
    relation: Literal["≤", "≥"]  # of the number to the criterion
    criterion: float
    points: int  # critical points, starts or flows that it is the worst of
    holds: bool = field(init=False)  # whether the criterion is met; not by NaN

    def __post_init__(self) -> None:
        below, above = self.found <= self.criterion, self.found >= self.criterion
        object.__setattr__(self, "holds", below if self.relation == "≤" else above)


def landscape_checks(starts: int, seed: int) -> Iterator[Check]:
    """Critical points and descents of each case.

    Args:
        starts: random starts of each model, at each of its scales.
        seed: of the starts.
    """
    for name, case in CASES.items():
        saddles: list[float] = []
        below, found = 0.0, 0
        for classes, dim in SIZES:
            model, least = OfUnitLength(case.model(classes, dim)), case.least(classes)
            generator = torch.Generator().manual_seed(seed)
            for scale in case.scales:
                points = critical_points(
                    model,
                    starts,
                    scale=scale,
                    max_iterations=case.iterations,
                    generator=generator,
                )
                found += len(points)
                below = max([below, *(least - point.value for point in points)])
                saddles += [p.least_eigenvalue for p in points if p.value > least + 1e-7]
        worst = max(saddles, default=math.nan)
        yield Check(
            "landscape", f"{name}: least eigenvalue, not global", worst, "≤", -1e-6, len(saddles)
        )
        yield Check("landscape", f"{name}: below the closed form", below, "≤", 1e-9, found)
        firsts = {classes: (classes, dim) for classes, dim in reversed(SIZES)}.values()
        ends = [_descent(case, *size, seed + n) for size in firsts for n in range(starts)]
        yield Check(
            "landscape", f"{name}: descent from it", max(map(abs, ends)), "≤", 1e-8, len(ends)
        )


class OfUnitLength(nn.Module):
    """A model that, where it is normalised, has its vectors tied to length 1.

    Their lengths do not matter there, so that gradients vanish as they grow, and a search for
    critical points would follow them. The spring is zero, and so is its slope, where all lengths
    are 1: critical points are those of the model, and the Hessian is that along the sphere, beside
    4 for each length.
    """

    def __init__(self, model: UnconstrainedFeatureModel) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        """The objective, and the spring."""
        value: Tensor = self.model()
        if self.model.normalised is None:
            return value
        rows = torch.cat([self.model.weight, self.model.features])
        return value + 0.5 * (rows.square().sum(1) - 1).square().sum()


def _descent(case: Case, classes: int, dim: int, seed: int) -> float:
    """The end of gradient descent less the closed form."""
    model = case.model(classes, dim, torch.Generator().manual_seed(seed))
    minimise([model], 3000)
    return model().item() - case.least(classes)


def hadamard_checks(seed: int) -> Iterator[Check]:
    """Singular vectors that stay, and singular values that move.

    Args:
        seed: of random singular values.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = (4, 8, 16)
    turned = [_turning(k, generator, random=False) for k in sizes]
    yield Check("hadamard", "turning of the singular vectors", max(turned), "≤", 1e-12, len(turned))
    others = [_turning(k, generator, random=True) for k in sizes]
    name = "turning from random orthogonal matrices"
    yield Check("hadamard", name, min(others), "≥", 1e-3, len(others))
    times = torch.logspace(-1, 6, 30, dtype=torch.float64)
    rises = []
    for _ in range(5):
        start = 2 * torch.rand(8, generator=generator, dtype=torch.float64) + 0.01
        s = spectral_flow(start, times)[:, 1:]
        rises.append(float((s.mean(1).log() - s.log().mean(1)).diff().max()))
    yield Check("hadamard", "rise of the Lyapunov function", max(rises), "≤", 1e-9, len(rises))
    late = torch.tensor([1e6])
    nearly = 0.1 * (1 + 0.01 * torch.arange(8))
    flows = {"small and nearly equal": nearly, "unequal": torch.tensor(UNEQUAL)}
    even, uneven = (_deviation(spectral_flow(start, late)[0]) for start in flows.values())
    yield Check("hadamard", "NC2 at t = 1e6, small and nearly equal start", even, "≤", 0.05, 1)
    yield Check("hadamard", "NC2 at t = 1e6, unequal start", uneven, "≥", 0.5, 1)
    decay = 1e-3
    end = spectral_flow(torch.tensor(UNEQUAL), torch.tensor([2e4]), decay=decay)[0, 1:]
    gap = float((end - math.log(1 / decay - 7)).abs().max())
    yield Check("hadamard", "the same with decay 1e-3: from its limit at 2e4", gap, "≤", 1e-4, 1)


def _turning(size: int, generator: torch.Generator, *, random: bool) -> float:
    """Largest part of the gradient that turns singular vectors, over its largest entry."""
    values = 2 * torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
    second, first = hadamard_init(size, size, values)
    basis = second / values.sqrt()
    if random:
        draw = torch.randn(size, size, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(draw).Q
        second = basis * values.sqrt()
        first = second.T.clone()
    logits = (second @ first).requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits.T, torch.arange(size))
    (slope,) = torch.autograd.grad(loss, logits)
    inside: Tensor = basis.T @ slope @ basis
    across = inside - inside.diagonal().diag()
    return float(across.abs().max() / inside.abs().max())


def _deviation(singular_values: Tensor) -> float:
    """NC2 of class vectors with these singular values: the distance of normalised Gram matrices."""
    values = singular_values[1:]
    return float((values / values.norm() - 1 / math.sqrt(len(values))).norm())
