"""Alternatives to the default orientation, scale, bias, normalisation and decay."""

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
from recipes.claims.record import Evidence, differences, last_accuracy, row
from recipes.pages.tables import Line, points

REDUCED = SMALL_CNN | {
    "classes": (20,),
    "train_images": 4_000,
    "test_images": 2_000,
    "augment": False,
    "epochs": 16,
    "measure_every": 4,
}
"""Twenty classes of CIFAR-100, and a small CNN that fits 200 images of each."""

DEFAULT = "default"
ALIKE = {
    "learned": DEFAULT,
    "learned, batch norm": "batch norm",
    "learned, layer norm": "layer norm",
    "learned, head decay 10": "head decay 10",
}
"""Learned heads, and the fixed ones that get the same features and the same decay."""

VARIANTS = {
    "learned": Variant({"head": "learned"}),
    "learned, batch norm": Variant({"head": "learned-norm"} | BATCH_NORM),
    "learned, layer norm": Variant({"head": "learned-norm", "feature_norm": "layer"}),
    "learned, head decay 10": Variant({"head": "learned", "head_decay": 10.0}),
    DEFAULT: Variant({"head": "compound"}),
    "head decay 1": Variant({"head": "compound", "head_decay": 1.0}),
    "head decay 10": Variant({"head": "compound", "head_decay": 10.0}),
    "hadamard": Variant({"head": "compound-hadamard"}),
    "canonical": Variant({"head": "compound-canonical"}),
    "random": Variant({"head": "compound-random"}),
    "scale 1/3": Variant({"head": "compound", "scale": 1 / 3}),
    "scale 3": Variant({"head": "compound", "scale": 3.0}),
    "bias": Variant({"head": "compound", "bias": True}),
    "batch norm": Variant({"head": "compound"} | BATCH_NORM),
    "batch norm, scale 3": Variant({"head": "compound", "scale": 3.0} | BATCH_NORM),
    "layer norm": Variant({"head": "compound", "feature_norm": "layer"}),
    "unit norm, scale 10": Variant({"head": "compound", "feature_norm": "unit", "scale": 10.0}),
}
"""Head decay 1 is what a fixed head is left with where nothing is done for the decay that went with
the learned one."""


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """No other fixed head is clearly ahead of the default, nor is the learned one like it."""
    others = [name for name in VARIANTS if name != DEFAULT and not name.startswith("learned")]
    why = "an accuracy of 50% on 2,000 images is known to 2.2 points (95%); half of that, rounded"
    for name in others:
        yield accuracy_ahead(evidence, (name, DEFAULT), "at most", 1.0, why)
    for learned, fixed in ALIKE.items():
        yield accuracy_ahead(evidence, (fixed, learned), "at least", -1.0, why)


def lines(evidence: Evidence) -> Iterator[Line]:
    """Accuracy of each minus that of the default."""
    default = last_accuracy(evidence[DEFAULT])
    yield row(
        "points ahead of default",
        evidence,
        lambda own: differences(last_accuracy(own), default),
        points,
    )


CLAIM = Claim(
    name="defaults",
    title="Orientation, scale, bias, normalisation and decay of fixed heads",
    says=(
        "This library, not a paper: a fixed head with its defaults (tiled orientation, class "
        "vectors of length 1, no bias, no normalisation, twice its own decay on the layer before) "
        "is as accurate as with any other setting, and as a learned head on the same features "
        "with the same decay."
    ),
    plans={
        "reduced": Plan("cifar100", REDUCED, VARIANTS),
        "full": Plan("cifar100", {}, VARIANTS),
    },
    judge=judge,
    measures=("m_nc1_ratio", "m_nc2_angles_means", "m_nc3"),
    lines=lines,
)
