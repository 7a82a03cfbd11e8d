"""Long tails: logit adjustment, with learned heads and fixed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from recipes.claims.claim import SMALL_CNN, Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, Record, extras, points_ahead
from recipes.data.images import ImageData
from recipes.pages.tables import Line
from recipes.training.loss import class_counts
from recipes.training.network import Network, evaluate
from recipes.training.result import RunResult

REDUCED = SMALL_CNN | {
    "image_size": 16,
    "classes": (20,),
    "test_images": 2_000,
    "augment": True,
    "epochs": 12,
    "measure_every": 12,
}
"""Twenty classes of CIFAR-100 at half their size, 500 images of the first."""

RATIOS = (10.0, 50.0, 100.0)
HEADS = ("learned", "compound")
LOSSES = ("cross-entropy", "logit-adjusted")

MANY, FEW = 100, 20
"""Classes of more than so many training images, and of fewer than so many."""


def _name(ratio: float, head: str, loss: str) -> str:
    return f"1:{ratio:g}, {head}, {loss}"


VARIANTS = {
    _name(ratio, head, loss): Variant({"imbalance": ratio, "head": head, "loss": loss})
    for ratio in RATIOS
    for head in HEADS
    for loss in LOSSES
}


@dataclass(frozen=True)
class Shots:
    """Test accuracy over classes with many, medium and few training images, if there are any."""

    many: float | None
    medium: float | None
    few: float | None


def examine(network: Network, data: ImageData, result: RunResult) -> Shots:  # noqa: ARG001
    """Accuracy by the number of training images of the right class."""
    _, logits = evaluate(network, data.test)
    labels = data.test.labels[:, 0]
    hits = logits[:, 0].argmax(1) == labels
    (counts,) = class_counts(data).values()
    images = counts[labels]
    groups = (images > MANY, (images >= FEW) & (images <= MANY), images < FEW)
    return Shots(*(float(hits[own].double().mean()) if own.any() else None for own in groups))


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Logit adjustment helps either head where classes are unequal, and the fixed head keeps up."""
    for ratio in RATIOS[1:]:
        for head in HEADS:
            plain, adjusted = (evidence[_name(ratio, head, loss)] for loss in LOSSES)
            yield Criterion(
                f"1:{ratio:g}, {head}: test accuracy with logit adjustment less that without, in "
                "points",
                points_ahead(adjusted, plain),
                "at least",
                2.0,
                "test classes are balanced: twice what an accuracy of 35% on 2,000 images is known "
                "to (one standard error)",
            )
    for ratio in RATIOS:
        fixed, learned = (evidence[_name(ratio, head, LOSSES[1])] for head in HEADS[::-1])
        yield Criterion(
            f"1:{ratio:g}, logit adjustment: test accuracy of the fixed head less that of the "
            "learned one, in points",
            points_ahead(fixed, learned),
            "at least",
            -1.0,
            "one standard error of such an accuracy",
        )


def lines(evidence: Evidence) -> list[Line]:
    """Accuracy by training images of the class, means over seeds."""
    ranges = {"many": f"over {MANY}", "medium": f"{FEW} to {MANY}", "few": f"under {FEW}"}
    return [
        (f"test accuracy, {name}: {images}", *(_percent(own, name) for own in evidence.values()))
        for name, images in ranges.items()
    ]


def _percent(records: Sequence[Record], name: str) -> str:
    shots = (getattr(found, name) for found in extras(records, Shots))
    known = [value for value in shots if value is not None]
    return f"{fmean(known):.1%}" if known else "-"


CLAIM = Claim(
    name="long-tail",
    title="Long tails: logit adjustment with learned and fixed heads",
    says=(
        "“Long-tail learning via logit adjustment” (Menon et al., ICLR 2021): adding the "
        "logarithms of the class frequencies to the logits in training makes the decisions those "
        "of balanced classes. “Inducing neural collapse in imbalanced learning” (Yang et al., "
        "NeurIPS 2022): a head fixed to a simplex ETF suits long tails. Here both, and together. "
        "The first class has as many times the images of the last as the ratio says."
    ),
    plans={
        "reduced": Plan("cifar100", REDUCED, VARIANTS, seeds=(10, 11, 12, 13, 14)),
        "full": Plan("cifar100", {}, VARIANTS),
    },
    judge=judge,
    measures=("m_nc1_ratio", "m_nc2_angles_means", "m_nc3"),
    examine=examine,
    lines=lines,
)
