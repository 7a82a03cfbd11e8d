"""Features and class vectors of unit length, and the temperature of their cosines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean

import torch

from etf_heads.theory import sphere_optimum, unit_scale
from recipes.claims.claim import SMALL_CNN, Claim, Criterion, Plan, Variant, accuracy_ahead
from recipes.claims.record import Evidence, Record, differences
from recipes.pages.tables import Line

CLASSES = 20

REDUCED = SMALL_CNN | {
    "image_size": 16,
    "classes": (CLASSES,),
    "train_images": 4_000,
    "test_images": 2_000,
    "augment": False,
    "feature_norm": "unit",
    "epochs": 16,
    "measure_every": 16,
}
"""Twenty classes of CIFAR-100 at half their size: in eight dimensions, where their class vectors
cannot all be far from each other, for the learned head; in sixty for the fixed one."""

LEARNED = (3.0, 10.0, 30.0)
FIXED = (3.0, unit_scale(CLASSES), 20.0)
"""Scales, one over the temperature; the middle one of the fixed head gives 99% to the right class
once features have collapsed."""


def _name(kind: str, scale: float) -> str:
    return f"{kind}, scale {scale:.3g}"


VARIANTS = {
    **{
        _name("learned", s): Variant({"head": "learned-unit", "features": 8, "scale": s})
        for s in LEARNED
    },
    **{_name("fixed", s): Variant({"head": "compound", "features": 60, "scale": s}) for s in FIXED},
}


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Margins and accuracy rise with the scale, and no loss is below the optimum's."""
    for smaller, larger in pairwise(_name("learned", s) for s in LEARNED):
        yield Criterion(
            f"margin of the class vectors, {larger} less {smaller}",
            differences(_margins(evidence[larger]), _margins(evidence[smaller])),
            "at least",
            0.0,
            "the lower the temperature, the more the nearest pair of classes counts",
        )
        yield accuracy_ahead(
            evidence,
            (larger, smaller),
            "at least",
            0.0,
            "what the source says; images learned by heart need not follow",
        )
    for scale in FIXED:
        name = _name("fixed", scale)
        floor = sphere_optimum(CLASSES, scale).loss
        yield Criterion(
            f"{name}: training loss less its lowest possible value {floor:.3g}",
            [record.history[-1].train.loss - floor for record in evidence[name]],
            "at least",
            0.0,
            "collapsed features reach it; nothing is below",
        )


def _margins(records: Sequence[Record]) -> list[float]:
    """One less the largest cosine between two class vectors, of each run."""
    grams = (torch.tensor(record.gram) for record in records)
    return [1 - float(gram.fill_diagonal_(-1.0).max()) for gram in grams]


def lines(evidence: Evidence) -> list[Line]:
    """The mean margin of each variant."""
    means = (fmean(_margins(own)) for own in evidence.values())
    return [("margin of class vectors", *(f"{mean:.3f}" for mean in means))]


CLAIM = Claim(
    name="temperature",
    title="The temperature of cosines: margins, accuracy, and the lowest loss",
    says=(
        "“Generalized neural collapse for a large number of classes” (Jiang et al., ICML 2024): "
        "with features and class vectors of unit length, and more classes than dimensions, the "
        "margin between class vectors grows as the temperature falls, and accuracy with it. "
        "“Neural collapse with normalized features” (Yaras et al., NeurIPS 2022): with enough "
        "dimensions the optimum is the simplex ETF at every temperature, with the loss that "
        "etf_heads.theory.sphere_optimum has."
    ),
    plans={
        "reduced": Plan("cifar100", REDUCED, VARIANTS, seeds=(10, 11, 12)),
        "full": Plan("cifar100", {"classes": (CLASSES,), "feature_norm": "unit"}, VARIANTS),
    },
    judge=judge,
    measures=("m_nc1_ratio", "m_nc2_angles_means", "m_nc3"),
    lines=lines,
)
