"""Heads of more classes than dimensions, trained four times as long."""

from __future__ import annotations

from collections.abc import Iterator

from recipes.claims.claim import Claim, Criterion, Plan, Settings, Variant, accuracy_ahead
from recipes.claims.loss_or_head import HEADS, LINEAR, ROWS
from recipes.claims.loss_or_head import lines as sizes
from recipes.claims.many_classes import BASE, CHOSEN, FULL, epochs_to
from recipes.claims.record import Evidence
from recipes.pages.tables import Line

LONG: Settings = {**BASE, "features": 256, "epochs": 30, "measure_every": 3}
"""The images of the claim many-classes, and its settings. Nothing was tuned."""

CODE, BEST = "Kerdock", "Kerdock, chosen"
VARIANTS = {
    LINEAR: Variant(HEADS[LINEAR]),
    ROWS: Variant(HEADS[ROWS]),
    CODE: Variant({"head": "spherical"}),
    BEST: Variant(CHOSEN),
}
"""1,000 classes, in four times the dimensions and epochs that the claim many-classes has: the
conditions in which a fixed code is nearest to nn.Linear."""

FULL_LENGTH: Settings = {**FULL, "classes": (1_000,), "epochs": 200, "measure_every": 10}

MARKS = (0.9, 0.95, 0.99)


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """The code, chosen or not, and class means against nn.Linear; what the choice does."""
    half = "half of what pilot runs showed (seed 0, a fifth of the training images held out)"
    sign = "the sign that the claim many-classes found in fewer epochs"
    near = "the threshold of the claim many-classes"
    yield accuracy_ahead(evidence, (ROWS, LINEAR), "at least", -1.0, near)
    yield accuracy_ahead(evidence, (BEST, LINEAR), "at most", -10.0, half)
    yield accuracy_ahead(evidence, (CODE, LINEAR), "at most", 0.0, sign)
    yield accuracy_ahead(evidence, (BEST, CODE), "at least", 0.0, sign)


def lines(evidence: Evidence) -> list[Line]:
    """First epochs with some test accuracies, differences from nn.Linear, and memory."""
    return [*epochs_to(MARKS, evidence), *sizes(evidence)]


CLAIM = Claim(
    name="long-training",
    title="More classes than dimensions, trained four times as long",
    says=(
        "This library, not a paper: with 1,000 classes in 256 dimensions, four times the epochs "
        "of the claim many-classes do not bring a fixed code to where nn.Linear is, not even if "
        "its vectors are given to the classes nearest to them: it ends 10 points behind or more. "
        "Class means with NONL end within a point of nn.Linear."
    ),
    plans={
        "reduced": Plan("glyphs", LONG, VARIANTS, seeds=(60, 61, 62)),
        "full": Plan("glyphs", FULL_LENGTH, VARIANTS, seeds=(60, 61, 62)),
    },
    judge=judge,
    measures=(),
    lines=lines,
)
