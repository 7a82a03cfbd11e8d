"""Gradient descent on the unconstrained feature model, held against what theory states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from etf_heads.theory import JointCounts, UnconstrainedFeatureModel, optimal_gram
from recipes.provenance import Provenance
from recipes.verification.problems import Problem, Source

_LENGTH_CUT = 1e-9  # of the largest squared length: a vector that is zero has no direction


@dataclass(frozen=True)
class Line:
    """The result for one problem.

    Attributes:
        theorem: as in :class:`~recipes.verification.problems.Problem`.
        name: as there.
        against: as there.
        strength: λ_W λ_H N.
        share: p of two binary tasks.
        gram: worst deviation of a Gram matrix over starts, relative to theory's largest entry.
        cosine: worst deviation of a cosine between class vectors; None when all are zero.
        gap: worst deviation of a logit gap, relative to theory's largest.
        solver: deviation of ``optimal_gram``'s Gram matrix from a closed form; None where it is
            what descent is compared with, and under other losses than cross-entropy.
        steps: L-BFGS steps of the longest start.
        gradient: largest entry of the gradient where the starts ended.
        tasks: class counts of the first source.
        cosines: between its class vectors, from "theory", the first start of "descent" and, where
            theory is a closed form, the "solver"; NaN for vectors that are zero.
    """

    theorem: str
    name: str
    against: str
    strength: float
    share: float | None
    gram: float
    cosine: float | None
    gap: float
    solver: float | None
    steps: int
    gradient: float
    tasks: list[int]
    cosines: dict[str, list[list[float]]]

    @property
    def deviations(self) -> dict[str, float | None]:
        """All of them, by what deviates."""
        return {
            "Gram": self.gram,
            "cosine": self.cosine,
            "logit gap": self.gap,
            "solver": self.solver,
        }

    @property
    def worst(self) -> float:
        """The largest deviation of the line."""
        return max(value for value in self.deviations.values() if value is not None)

    def agrees(self, tolerance: float) -> bool:
        """The verdict: every deviation is within the tolerance."""
        return self.worst <= tolerance


@dataclass(frozen=True)
class Summary:
    """The results for all problems; ``theory.json``."""

    tolerance: float  # a line agrees when none of its deviations is above this
    starts: int  # random starts of each problem
    lines: list[Line]  # one a problem
    provenance: Provenance  # of all
    agrees: bool = field(init=False)  # whether every line does

    def __post_init__(self) -> None:
        agrees = all(line.agrees(self.tolerance) for line in self.lines)
        object.__setattr__(self, "agrees", agrees)  # the dataclass is frozen


def check(problem: Problem, starts: int, *, steps: int = 3000) -> Line:
    """Optimise a problem from several random starts and compare each end with theory.

    Args:
        problem: what to optimise.
        starts: how many; the line keeps the worst of them.
        steps: L-BFGS steps after which a start ends in any case.
    """
    deviations: list[tuple[float, float | None, float]] = []
    ends: list[_End] = []
    for seed in range(starts):
        end = descend(problem, seed, steps)
        ends.append(end)
        deviations += [
            _deviations(source, model)
            for source, model in zip(problem.sources, end.models, strict=True)
        ]
    grams, angles, gaps = zip(*deviations, strict=True)
    first = problem.sources[0]
    shown = {"theory": first.gram, "descent": ends[0].models[0].gram()}
    solver = None
    if problem.against == "closed form" and all(s.losses is None for s in problem.sources):
        solved = [
            optimal_gram(s.counts, s.lambda_w, s.lambda_h, s.task_weights, tolerance=1e-12).gram
            for s in problem.sources
        ]
        pairs = zip(solved, problem.sources, strict=True)
        solver = max(_relative(gram, source.gram) for gram, source in pairs)
        shown["solver"] = solved[0]
    return Line(
        theorem=problem.theorem,
        name=problem.name,
        against=problem.against,
        strength=problem.strength,
        share=problem.share,
        gram=max(grams),
        cosine=max((c for c in angles if c is not None), default=None),
        gap=max(gaps),
        solver=solver,
        steps=max(end.steps for end in ends),
        gradient=max(end.gradient for end in ends),
        tasks=list(first.counts.tasks.sizes),
        cosines={name: _listed(cosines_of(g, first.gram)) for name, g in shown.items()},
    )


@dataclass(frozen=True)
class _End:
    models: list[UnconstrainedFeatureModel]
    steps: int
    gradient: float


def descend(problem: Problem, seed: int, steps: int) -> _End:
    """L-BFGS in float64 from a normally distributed start, until nothing moves any more."""
    generator = torch.Generator().manual_seed(seed)
    models = [
        UnconstrainedFeatureModel(
            source.counts,
            source.lambda_w,
            source.lambda_h,
            dim=problem.dim,
            task_weights=source.task_weights,
            losses=source.losses,
            generator=generator,
        )
        for source in problem.sources
    ]
    return _End(models, *minimise(models, steps))


def minimise(models: Sequence[nn.Module], steps: int) -> tuple[int, float]:
    """L-BFGS on the sum of what models return, from where they are, until nothing moves any more.

    Returns:
        The number of steps, and the largest entry of the gradient that is left.
    """
    parameters = [p for model in models for p in model.parameters()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        max_eval=10 * steps,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-11,
        tolerance_change=0,  # the loss stands still long before the angles do
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = torch.stack([model() for model in models]).sum()
        objective.backward()
        return objective

    optimizer.step(closure)
    taken = optimizer.state[parameters[0]]["n_iter"]
    return taken, max(float(p.grad.abs().max()) for p in parameters if p.grad is not None)


def cosines_of(gram: Tensor, theory: Tensor) -> Tensor:
    """Cosines between class vectors; NaN where theory says that a vector is zero."""
    lengths = gram.diagonal().sqrt()
    stated = theory.diagonal()
    zero = stated <= _LENGTH_CUT * stated.max()
    lengths = torch.where(zero, torch.nan, lengths)
    return gram / (lengths[:, None] * lengths)


def logit_gaps(logits: Tensor, counts: JointCounts) -> Tensor:
    """Logit of the right class of each task minus all logits, shape (G, sum K_t)."""
    right = logits.gather(1, counts.rows)  # shape: (G, T)
    sizes = torch.tensor(counts.tasks.sizes)
    return right.repeat_interleave(sizes, dim=1) - logits


def _deviations(
    source: Source, model: UnconstrainedFeatureModel
) -> tuple[float, float | None, float]:
    gram = model.gram()
    cosine = (cosines_of(gram, source.gram) - cosines_of(source.gram, source.gram)).abs()
    cosine = cosine[~cosine.isnan()]
    found = logit_gaps(model.logits().detach(), source.counts)
    return (
        _relative(gram, source.gram),
        float(cosine.max()) if cosine.numel() else None,
        _relative(found, logit_gaps(source.logits, source.counts)),
    )


def _relative(found: Tensor, stated: Tensor) -> float:
    """Largest deviation over the largest stated entry; as it is where theory states zero."""
    largest = float(stated.abs().max())
    return float((found - stated).abs().max()) / (largest or 1.0)


def _listed(matrix: Tensor) -> list[list[float]]:
    return [[round(value, 6) for value in row] for row in matrix.tolist()]
