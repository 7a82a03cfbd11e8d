"""The grid: unconstrained feature models whose optimum the theory states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etf_heads.theory import (
    CrossEntropy,
    Focal,
    GapLoss,
    JointCounts,
    SquaredError,
    balanced_optimum,
    binary_cosine,
    logit_gap,
    optimal_gram,
)
from recipes.data import SHARES

STRENGTHS = ((5e-3, 1e-5), (1e-3, 5e-3), (1e-2, 1e-2))
"""(λ_W, λ_H) of Theorem 5.1's lines. At N = 400 the last merges the tasks from p = 0.84."""

BINARY_SAMPLES = 400


@dataclass(frozen=True, eq=False)
class Source:
    """Samples that have labels for the same tasks, and the optimum that theory states for them.

    Attributes:
        counts: the label tuples. A tuple may stand in several rows, each with a feature of its
            own; a row a sample is the unconstrained feature model to the letter.
        lambda_w: regulariser of the class vectors, mean-loss convention.
        lambda_h: regulariser of the features.
        task_weights: c_t.
        gram: stated Gram matrix of the class vectors, shape (sum K_t, sum K_t).
        logits: stated logits of every row of ``counts``, shape (G, sum K_t).
        losses: one a task; cross-entropy when None.
    """

    counts: JointCounts
    lambda_w: float
    lambda_h: float
    task_weights: tuple[float, ...]
    gram: Tensor
    logits: Tensor
    losses: tuple[GapLoss, ...] | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """One line of the grid.

    Attributes:
        theorem: "3.1", "3.2", "5.1" or "general".
        name: what is special about it.
        sources: what is optimised together; features of all sources share their ``dim``
            dimensions.
        against: where the stated optimum comes from: "closed form" or "optimal_gram".
        dim: dimensions of the features; the least that suffices.
        share: p of two binary tasks, else None.
    """

    theorem: str
    name: str
    sources: tuple[Source, ...]
    against: str
    dim: int
    share: float | None = None

    @property
    def strength(self) -> float:
        """λ_W λ_H N of the first source: the one number that decides angles."""
        source = self.sources[0]
        return source.lambda_w * source.lambda_h * source.counts.total


def grid(
    *, shares: Sequence[float] = SHARES, random_problems: int = 8, small: bool = False
) -> list[Problem]:
    """The problems of every theorem.

    Args:
        shares: p's of Theorem 5.1, each with all ``STRENGTHS``.
        random_problems: how many random joint distributions to add to the general case.
        small: keep one line of a kind, for a first look.
    """
    kinds = [
        _balanced_lines(),
        _multi_source_lines(),
        [two_binary_tasks(p, *lambdas) for lambdas in STRENGTHS for p in shares],
        [*_special_lines(), *(_random_line(seed) for seed in range(random_problems))],
    ]
    return [problem for kind in kinds for problem in (kind[:1] if small else kind)]


def balanced_source(
    sizes: Sequence[int],
    lambda_w: float,
    lambda_h: float,
    each: int,
    task_weights: Sequence[float] | None = None,
    *,
    losses: tuple[GapLoss, ...] | None = None,
    per_sample: bool = False,
) -> Source:
    """Theorem 3.1: every label tuple has ``each`` samples."""
    weights = tuple(task_weights or [1.0] * len(sizes))
    counts = JointCounts.parse(torch.full(tuple(sizes), float(each)))
    if per_sample:
        rows = counts.labels.repeat_interleave(each, dim=0)
        counts = JointCounts(counts.tasks, rows, torch.ones(len(rows), dtype=torch.float64))
    best = balanced_optimum(
        sizes, lambda_w, lambda_h, counts.total, task_weights=weights, losses=losses
    )
    logits = best.features(counts.labels) @ best.class_vectors.T
    return Source(counts, lambda_w, lambda_h, weights, best.gram, logits, losses)


def two_binary_tasks(share: float, lambda_w: float, lambda_h: float) -> Problem:
    """Theorem 5.1: balanced labels that are equal in this share of the samples."""
    n = BINARY_SAMPLES
    equal, different = share * n / 2, (1 - share) * n / 2
    counts = JointCounts.parse(torch.tensor([[equal, different], [different, equal]]))
    # The theorem leaves the probability sqrt(λ_W λ_H N / part) to the wrong class of these tuples,
    # at most 1/2 (given up): what one binary task of N/2 samples has with the part as its weight.
    gaps = [logit_gap(2, lambda_w, lambda_h, n / 2, part) for part in (share, 1 - share)]
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    unequal = (counts.labels[:, 0] != counts.labels[:, 1]).long()
    half = torch.tensor(gaps, dtype=torch.float64)[unequal] / 2
    logits = (half[:, None, None] * signs[counts.labels][:, :, None] * signs).flatten(1)
    norm = math.sqrt(lambda_h * n / lambda_w) / 4
    norm *= gaps[0] * math.sqrt(share) + gaps[1] * math.sqrt(1 - share)
    cosine = binary_cosine(share, lambda_w, lambda_h, n)
    angles = torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64)
    gram = norm * torch.kron(angles, signs[:, None] * signs)
    source = Source(counts, lambda_w, lambda_h, (1.0, 1.0), gram, logits)
    merged = ", merged" if gaps[1] == 0 else ""
    name = f"p = {share:g}, λ_W λ_H N = {lambda_w * lambda_h * n:.1g}{merged}"
    return Problem("5.1", name, (source,), "closed form", dim=2, share=share)


def general(
    name: str, label_counts: Tensor, lambda_w: float, lambda_h: float, weights: Sequence[float] = ()
) -> Problem:
    """Any joint counts, against the convex solver."""
    counts = JointCounts.parse(label_counts)
    weights = tuple(weights) or (1.0,) * len(counts.tasks)
    # Deviations go with the root of the duality gap: the default of 1e-11 can leave 1e-5.
    best = optimal_gram(counts, lambda_w, lambda_h, weights, tolerance=1e-12)
    source = Source(counts, lambda_w, lambda_h, weights, best.gram, best.logits)
    return Problem("general", name, (source,), "optimal_gram", dim=counts.tasks.rank)


def _balanced_lines() -> list[Problem]:
    lines = [
        ("K = 2, 3", balanced_source((2, 3), 1e-2, 1e-3, 10)),
        ("K = 10", balanced_source((10,), 5e-3, 1e-5, 40)),
        ("K = 10, 10", balanced_source((10, 10), 1e-3, 1e-4, 5)),
        ("K = 10, 10, large λ's", balanced_source((10, 10), 4e-3, 1e-2, 5)),
        ("K = 3, 5; c = 1, 4", balanced_source((3, 5), 1e-2, 1e-4, 8, (1, 4))),
        ("K = 2, 3, 4", balanced_source((2, 3, 4), 1e-3, 1e-3, 4)),
        ("K = 2, 3, 4; c = 0.5, 1, 2", balanced_source((2, 3, 4), 1e-3, 1e-3, 4, (0.5, 1, 2))),
        ("K = 2, 2, 2, 2", balanced_source((2, 2, 2, 2), 1e-2, 1e-4, 6)),
        ("K = 3, 4, a feature a sample", balanced_source((3, 4), 1e-2, 1e-3, 8, per_sample=True)),
        ("K = 2, 8: the larger is zero", balanced_source((2, 8), 2e-2, 2e-2, 10)),
        ("K = 4, 5: both are zero", balanced_source((4, 5), 5e-2, 5e-2, 10)),
        (
            "K = 10, label smoothing 0.1",
            balanced_source((10,), 5e-3, 1e-5, 40, losses=(CrossEntropy(label_smoothing=0.1),)),
        ),
        (
            "K = 3, 4, squared error and cross-entropy",
            balanced_source((3, 4), 1e-2, 1e-3, 8, losses=(SquaredError(), CrossEntropy())),
        ),
        ("K = 5, focal loss", balanced_source((5,), 5e-3, 1e-4, 20, losses=(Focal(2.0),))),
    ]
    return [
        Problem("3.1", name, (source,), "closed form", source.counts.tasks.rank)
        for name, source in lines
    ]


def _multi_source_lines() -> list[Problem]:
    lines = [
        ("K = 3, 5", [((3,), 20), ((5,), 20)]),
        ("K = 10, 10, 10", [((10,), 30)] * 3),
        ("K = 2, 6, 10; N = 100, 600, 300", [((2,), 50), ((6,), 100), ((10,), 30)]),
    ]
    problems = []
    for name, parts in lines:
        sources = tuple(balanced_source(sizes, 5e-3, 1e-4, each) for sizes, each in parts)
        dim = max(source.counts.tasks.rank for source in sources)
        problems.append(Problem("3.2", name, sources, "closed form", dim))
    return problems


def _special_lines() -> list[Problem]:
    zeros = torch.tensor([[60.0, 0, 5], [0, 80, 10], [5, 0, 40], [20, 30, 0]])
    return [
        general("K = 4, 3 with zero counts", zeros, 1e-3, 1e-4),
        general("the same, c = 3, 1", zeros, 1e-3, 1e-4, (3, 1)),
        general("K = 5, 5, always equal labels", torch.eye(5) * 20, 1e-3, 1e-4),
        general("K = 4, imbalanced 10 : 1", torch.tensor([100.0, 100, 10, 10]), 5e-3, 1e-5),
        general("K = 4, long tail", torch.tensor([400.0, 100, 25, 5]), 1e-3, 1e-4),
        general("K = 4, minorities collapsed", torch.tensor([500.0, 500, 2, 2]), 1e-2, 1e-3),
        general("K = 2, imbalanced 50 : 1", torch.tensor([500.0, 10]), 1e-3, 1e-4),
    ]


def _random_line(seed: int) -> Problem:
    """Two or three tasks, two to five classes each, about a quarter of the tuples empty."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 6, (2 + seed % 2,), generator=generator).tolist()
    counts = torch.randint(1, 60, sizes, generator=generator).double()
    kept = counts * (torch.rand(sizes, generator=generator) > 0.25)
    for axis in range(len(sizes)):  # every class must occur
        others = [a for a in range(len(sizes)) if a != axis]
        unseen = kept.sum(others, keepdim=True) == 0
        kept = torch.where(unseen, counts, kept)
    lambda_w, lambda_h = (10 ** torch.empty(2).uniform_(-4, -2.5, generator=generator)).tolist()
    name = f"random, K = {', '.join(map(str, sizes))} (draw {seed})"
    return general(name, kept, lambda_w, lambda_h)
