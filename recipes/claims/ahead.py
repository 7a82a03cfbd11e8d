"""Fixed heads against learned heads, both tuned alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recipes.claims.claim import SMALL_CNN, Claim, Criterion, Plan, Settings, Variant
from recipes.claims.record import (
    Evidence,
    Record,
    chosen_settings,
    differences,
    last_accuracy,
    points_ahead,
)
from recipes.intervals import interval
from recipes.pages.tables import Line, points

BASE = {"feature_norm": None, "measure_every": 1_000}
"""No normalisation, and nothing measured between start and end."""

REGIMES: dict[str, Settings] = {
    "few images": {
        "image_size": 16,
        "classes": (20,),
        "train_images": 2_000,
        "test_images": 2_000,
        "augment": False,
        "epochs": 20,
    },
    "augmented": {
        "image_size": 16,
        "features": 120,
        "train_images": 8_000,
        "test_images": 4_000,
        "epochs": 6,
    },
    "long tail": {
        "image_size": 16,
        "classes": (20,),
        "imbalance": 50.0,
        "test_images": 2_000,
        "epochs": 16,
    },
    "two tasks": {
        "data": "multi-mnist-10-10",
        "image_size": 18,
        "train_images": 3_000,
        "test_images": 2_000,
        "augment": False,
        "epochs": 8,
    },
}
"""Images learned by heart; all 100 classes, shifted and mirrored; classes of which the first is 50
times as frequent as the last; two labels on the same images. All images have half their size."""

FULL: dict[str, Settings] = {
    "few images": {"classes": (20,), "train_images": 4_000, "augment": False},
    "augmented": {},
    "long tail": {"imbalance": 50.0},
    "two tasks": {"data": "multi-mnist-10-10"},
}

SEEDS = (10, 11, 12, 13, 14)
LOSSES = ("cross-entropy", "normalized", "ntce", "nonl")
KINDS = ("learned", "fixed")
PLAIN = "plain nn.Linear"


def _variants(regimes: dict[str, Settings]) -> dict[str, Variant]:
    """Each kind of head with each loss, tuned; and the plain learned head, as it comes."""
    found = {}
    for regime, settings in regimes.items():
        for kind in KINDS:
            for loss in LOSSES:
                found[f"{regime}: {kind}, {loss}"] = Variant({**settings, **_head(kind, loss)})
        found[f"{regime}: {PLAIN}"] = Variant({**settings, "head": "learned"}, tuned=False)
    return found


def _head(kind: str, loss: str) -> Settings:
    if loss == "cross-entropy":
        return {"head": "learned" if kind == "learned" else "compound", "feature_norm": None}
    head = "learned-unit" if kind == "learned" else "compound"
    return {"head": head, "feature_norm": "unit", "loss": loss}


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """The best fixed head of each regime against the best learned one."""
    regimes = list(dict.fromkeys(name.partition(":")[0] for name in evidence))
    pairs = {regime: [chosen(evidence, regime, kind) for kind in KINDS] for regime in regimes}
    ahead = {
        regime: points_ahead(evidence[fixed], evidence[learned])
        for regime, (learned, fixed) in pairs.items()
    }
    hoped = max(
        regimes, key=lambda r: validated(evidence[pairs[r][1]]) - validated(evidence[pairs[r][0]])
    )
    why = "half a point is what a user would not notice; best by the images held out in tuning"
    for regime, values in ahead.items():
        yield Criterion(
            f"{regime}: test accuracy of the best fixed head ({_loss(pairs[regime][1])}) less "
            f"that of the best learned one ({_loss(pairs[regime][0])}), in points",
            values,
            "at least",
            -0.5,
            why,
        )
    yield Criterion(
        f"the same where tuning promised most ({hoped})",
        ahead[hoped],
        "at least",
        0.0,
        "ahead in one regime at least; which one was chosen by the images held out",
    )


def chosen(evidence: Evidence, regime: str, kind: str) -> str:
    """The variant of this kind of head that was most accurate on the images held out."""
    names = [name for name in evidence if name.startswith(f"{regime}: {kind},")]
    return max(names, key=lambda name: validated(evidence[name]))


def validated(records: Sequence[Record]) -> float:
    """Accuracy of the best trial of tuning, in points."""
    return 100 * max((trial.accuracy or 0.0 for trial in records[0].tuned), default=0.0)


def lines(evidence: Evidence) -> Iterator[Line]:
    """Choices of the tuning, and differences from the plain learned head of the same regime."""
    accuracy = {name: last_accuracy(own) for name, own in evidence.items()}
    plain = {name: accuracy[f"{name.partition(':')[0]}: {PLAIN}"] for name in evidence}
    ahead = [differences(accuracy[name], plain[name]) for name in evidence]
    yield ("points ahead of plain", *(points(interval(own)) for own in ahead))
    yield ("held-out accuracy of the best trial, %", *map(_held_out, evidence.values()))
    yield chosen_settings(evidence)


def _loss(variant: str) -> str:
    return variant.rpartition(", ")[2]


def _held_out(records: Sequence[Record]) -> str:
    return f"{validated(records):.1f}" if records[0].tuned else "–"


CLAIM = Claim(
    name="ahead",
    title="Fixed heads against learned ones, both tuned alike",
    says=(
        "This library, not a paper: with the same number of trials over the same grid (learning "
        "rate, weight decay, and the decay of the last linear maps or the temperature of the "
        "loss), the best fixed head is not behind the best learned one in any of four regimes, and "
        "ahead in at least one. Losses: cross-entropy of logits; of cosines (NormFace, Wang et "
        "al., 2017); NTCE and NONL (Koromilas et al., “Neural collapse by design”, 2026)."
    ),
    plans={
        "reduced": Plan("cifar100", BASE | SMALL_CNN, _variants(REGIMES), SEEDS, trials=7),
        "full": Plan("cifar100", BASE, _variants(FULL), SEEDS, trials=7),
    },
    judge=judge,
    measures=(),
    lines=lines,
)
