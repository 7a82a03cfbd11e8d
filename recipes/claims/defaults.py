"""Alternatives to the default orientation, scale, bias and normalisation."""

from __future__ import annotations

from recipes.claims.claim import (
    Claim,
    Criterion,
    Evidence,
    Plan,
    Variant,
    accuracy_ahead,
    points_ahead,
)
from recipes.intervals import interval
from recipes.pages.tables import Line, points

REDUCED = {
    "backbone": "cnn",
    "width": 16,
    "features": 60,
    "classes": (20,),
    "train_images": 4_000,
    "test_images": 2_000,
    "augment": False,
    "epochs": 16,
    "batch_size": 200,
    "lr": 1e-2,
    "weight_decay": 1.0,
}
"""Twenty classes of CIFAR-100, and a small CNN that fits 200 images of each."""

DEFAULT = "default"
ALIKE = {"learned": "no norm", "learned, batch norm": DEFAULT, "learned, layer norm": "layer norm"}
"""Learned heads, and the fixed ones that get the same features."""

VARIANTS = {
    "learned": Variant({"head": "learned"}),
    "learned, batch norm": Variant({"head": "learned-norm"}),
    "learned, layer norm": Variant({"head": "learned-norm", "feature_norm": "layer"}),
    DEFAULT: Variant({"head": "compound"}),
    "hadamard": Variant({"head": "compound-hadamard"}),
    "canonical": Variant({"head": "compound-canonical"}),
    "random": Variant({"head": "compound-random"}),
    "scale 1/3": Variant({"head": "compound", "scale": 1 / 3}),
    "scale 3": Variant({"head": "compound", "scale": 3.0}),
    "learned scale": Variant({"head": "compound", "learn_scale": True}),
    "warmed up": Variant({"head": "compound", "warm_up_logits": 4}),
    "bias": Variant({"head": "compound", "bias": True}),
    "no norm": Variant({"head": "compound", "feature_norm": None}),
    "layer norm": Variant({"head": "compound", "feature_norm": "layer"}),
    "unit norm, scale 10": Variant({"head": "compound", "feature_norm": "unit", "scale": 10.0}),
}


def judge(evidence: Evidence) -> list[Criterion]:
    """No other fixed head is clearly ahead of the default, nor is the learned one like it."""
    others = [name for name in VARIANTS if name != DEFAULT and not name.startswith("learned,")]
    why = "an accuracy of 50% on 2,000 images is known to 2.2 points (95%); half of that, rounded"
    return [
        *(accuracy_ahead(evidence, (name, DEFAULT), "at most", 1.0, why) for name in others),
        *(
            accuracy_ahead(evidence, (fixed, learned), "at least", -1.0, why)
            for learned, fixed in ALIKE.items()
        ),
    ]


def lines(evidence: Evidence) -> list[Line]:
    """Accuracy of each minus that of the default."""
    default = evidence[DEFAULT]
    differences = [[p / 100 for p in points_ahead(own, default)] for own in evidence.values()]
    return [("points ahead of default", *(points(interval(d)) for d in differences))]


CLAIM = Claim(
    name="defaults",
    title="Orientation, scale, bias and normalisation of fixed heads",
    says=(
        "This library, not a paper: a fixed head with its defaults (tiled orientation, class "
        "vectors of length 1, no bias) on batch-normalised features is as accurate as with any "
        "other setting, and as a learned head on features of the same normalisation."
    ),
    plans={
        "reduced": Plan("cifar100", REDUCED, VARIANTS),
        "full": Plan("cifar100", {}, VARIANTS),
    },
    judge=judge,
    measures=("m_nc1_ratio", "m_nc2_angles_means", "m_nc3"),
    lines=lines,
)
