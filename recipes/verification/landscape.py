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
from torch import Tensor

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
)
from recipes.verification.descent import descend
from recipes.verification.problems import Problem, balanced_source

LOSSES: dict[str, GapLoss] = {
    "cross-entropy": CrossEntropy(),
    "label smoothing 0.1": CrossEntropy(label_smoothing=0.1),
    "squared error": SquaredError(),
    "focal loss, γ = 2": Focal(2.0),
    "focal loss, γ = 5": Focal(5.0),
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
    """Critical points and descents under each loss.

    Args:
        starts: random starts of each model, at each of three scales.
        seed: of the starts.
    """
    for name, loss in LOSSES.items():
        saddles: list[float] = []
        below, found = 0.0, 0
        for classes, dim in SIZES:
            counts = torch.full((classes,), float(EACH))
            model = UnconstrainedFeatureModel(counts, *LAMBDAS, dim=dim, losses=loss)
            least = _least(classes, loss)
            generator = torch.Generator().manual_seed(seed)
            for scale in (0.5, 1.5, 4.0):
                points = critical_points(model, starts, scale=scale, generator=generator)
                found += len(points)
                below = max([below, *(least - point.value for point in points)])
                saddles += [p.least_eigenvalue for p in points if p.value > least + 1e-7]
        worst = max(saddles, default=math.nan)
        yield Check(
            "landscape", f"{name}: least eigenvalue, not global", worst, "≤", -1e-6, len(saddles)
        )
        yield Check("landscape", f"{name}: below the closed form", below, "≤", 1e-9, found)
        ends = [
            descend(_problem(classes, dim, loss), seed + n, 3000).models[0]().item()
            - _least(classes, loss)
            for classes, dim in (SIZES[0], SIZES[2])
            for n in range(starts)
        ]
        yield Check(
            "landscape", f"{name}: descent from it", max(map(abs, ends)), "≤", 1e-8, len(ends)
        )


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


def _least(classes: int, loss: GapLoss) -> float:
    return balanced_optimum([classes], *LAMBDAS, EACH * classes, losses=loss).objective


def _problem(classes: int, dim: int, loss: GapLoss) -> Problem:
    source = balanced_source((classes,), *LAMBDAS, EACH, losses=(loss,))
    return Problem("3.1", "landscape", (source,), "closed form", dim)


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
