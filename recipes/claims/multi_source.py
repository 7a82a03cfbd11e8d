"""Neural collapse where every task has images of its own."""

from __future__ import annotations

from collections.abc import Iterator

from recipes.claims.claim import (
    BATCH_NORM,
    SMALL_CNN,
    Claim,
    Criterion,
    Plan,
    Variant,
    accuracy_ahead,
)
from recipes.claims.record import Evidence, fall, final

REDUCED = SMALL_CNN | {
    "features": 50,
    "classes": (5, 5, 5, 5, 5),
    "train_images": 5_000,
    "test_images": 2_500,
    "augment": False,
    "epochs": 24,
    "batch_size": 250,
}
"""Five classes of each fifth of CIFAR-100, and a small CNN that fits them: no augmentation. All
training images are right after about 14 epochs; the others are the terminal phase."""

VARIANTS = {
    "learned": Variant({"head": "learned"}),
    "learned-norm": Variant({"head": "learned-norm"} | BATCH_NORM),
    "compound": Variant({"head": "compound"}),
    "compound, batch norm": Variant({"head": "compound"} | BATCH_NORM),
}


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Every task collapses as it would alone, and fixed heads are as accurate."""
    tenth = "a tenth of its start: collapse is a fall by an order of magnitude"
    as_nc1 = "a tenth of its start, as for M_NC1"
    alike = "lengths equal within a fifth"
    random = "a third of the mean distance 0.3 of the cosines of random vectors in five dimensions"
    limits = (
        ("M_NC1 of the learned head, as a share of its start", fall, "m_nc1_ratio", 0.1, tenth),
        ("M_NC2 norms of class means", final, "m_nc2_norms_means", 0.2, alike),
        ("M_NC2 norms of class vectors", final, "m_nc2_norms_weights", 0.2, alike),
        ("M_NC2 angles of class means", final, "m_nc2_angles_means", 0.1, random),
        ("M_NC2 angles of class vectors", final, "m_nc2_angles_weights", 0.1, random),
        ("M_NC3 of the learned head, as a share of its start", fall, "m_nc3", 0.1, as_nc1),
        ("M_NC4 of the learned head", final, "m_nc4", 0.01, "one decision in a hundred"),
    )
    for statement, number, measure, most, why in limits:
        yield Criterion(statement, number(evidence["learned-norm"], measure), "at most", most, why)
    for pair in (("compound", "learned"), ("compound, batch norm", "learned-norm")):
        yield accuracy_ahead(
            evidence,
            pair,
            "at least",
            -1.0,
            "an accuracy of 80% on 2,500 images is known to 1.6 points (95%); less than that",
        )


CLAIM = Claim(
    name="multi-source",
    title="Multi-source tasks: each collapses as it would alone",
    says=(
        "“Neural Collapse in Multi-Task Learning”: where every task labels images of its own, each "
        "task's features collapse to their class means (M_NC1), class means and class vectors "
        "each form a simplex ETF (M_NC2) and align (M_NC3), and nearest class centres decide as "
        "the classifier does (M_NC4). Nothing makes the tasks orthogonal, so fixed heads may share "
        "dimensions."
    ),
    plans={
        "reduced": Plan("cifar100-split-5x20", REDUCED, VARIANTS),
        "full": Plan("cifar100-split-5x20", {}, VARIANTS),
    },
    judge=judge,
    measures=(
        "m_nc1_ratio",
        "m_nc2_norms_means",
        "m_nc2_angles_means",
        "m_nc2_norms_weights",
        "m_nc2_angles_weights",
        "m_nc3",
        "m_nc4",
    ),
)
