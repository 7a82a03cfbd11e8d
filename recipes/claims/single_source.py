"""Compound neural collapse where all tasks label the same images."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.claims.claim import BATCH_NORM, SMALL_CNN, Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, Record, fall, final, points_ahead

REDUCED = SMALL_CNN | {
    "width": 12,
    "train_images": 6_000,
    "test_images": 2_000,
    "augment": False,
    "epochs": 18,
    "batch_size": 250,
}
"""A small CNN on two MNIST digits an image: under a minute a run on two CPU cores. Without
augmentation all training images are right after half of the epochs, and the rest are the terminal
phase that the paper speaks of."""

VARIANTS = {
    "learned": Variant({"head": "learned"}),
    "learned-norm": Variant({"head": "learned-norm"} | BATCH_NORM),
    "compound": Variant({"head": "compound"}),
    "compound, batch norm": Variant({"head": "compound"} | BATCH_NORM),
}


def collapse(learned: Sequence[Record]) -> dict[str, Criterion]:
    """Criteria, by measure, for the collapse of learned heads on two tasks."""
    tenth = "a tenth of its start: collapse is a fall by an order of magnitude"
    angles = "half the mean distance 0.1 of random vectors, about one over the root of d = 60"
    cosine = "half the mean |cosine| 0.1 of random vectors at d = 60"
    quarter = "mean features within a quarter of the way to the sum of their class vectors"
    alike = "lengths equal within a tenth"
    share = "of the learned head, as a share of its start"
    limits = (
        ("s_nc1_ratio", f"S_NC1 {share}", fall, 0.1, tenth),
        ("s_nc2_angles", "S_NC2 angles of the learned head", final, 0.05, angles),
        ("s_nc2_norms", "S_NC2 norms of the learned head", final, 0.1, alike),
        ("s_nc3", "S_NC3 of the learned head", final, 0.05, cosine),
        ("s_nc4", f"S_NC4 {share}", fall, 0.25, quarter),
        ("s_nc5", "S_NC5 of the learned head", final, 0.01, "one decision in a hundred"),
    )
    return {
        measure: Criterion(statement, number(learned, measure), "at most", most, why)
        for measure, statement, number, most, why in limits
    }


def judge(evidence: Evidence) -> list[Criterion]:
    """Learned heads collapse, and the fixed one is as accurate."""
    learned = evidence["learned-norm"]
    return [
        *collapse(learned).values(),
        Criterion(
            "test accuracy of the compound head less that of the learned head, in points",
            points_ahead(evidence["compound"], evidence["learned"]),
            "at least",
            -0.2,
            "within 0.2 points of the plain learned head or better, at equal epochs",
        ),
        Criterion(
            "the same, both behind batch normalisation",
            points_ahead(evidence["compound, batch norm"], learned),
            "at least",
            -0.2,
            "as above",
        ),
    ]


CLAIM = Claim(
    name="single-source",
    title="Single-source tasks: compound neural collapse",
    says=(
        "“Neural Collapse in Multi-Task Learning”: where all tasks label the same images, training "
        "past zero error drives features of one label tuple to their mean (S_NC1), each task's "
        "class vectors to a simplex ETF (S_NC2), the tasks' ETFs to orthogonality (S_NC3), and "
        "the mean features to the normalised sum of their class vectors (S_NC4), so that nearest "
        "class centres decide as the classifier does (S_NC5). So heads can be fixed to such "
        "frames at no loss of accuracy."
    ),
    plans={
        "reduced": Plan("multi-mnist-10-10", REDUCED, VARIANTS),
        "full": Plan("multi-mnist-10-10", {}, VARIANTS),
    },
    judge=judge,
    measures=("s_nc1_ratio", "s_nc2_norms", "s_nc2_angles", "s_nc3", "s_nc4", "s_nc5"),
)
