"""Fine-tuning with class means as the classifier, and accuracy on images from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from etf_heads.theory import unit_scale
from recipes.adaptation.runs import adapt
from recipes.adaptation.settings import Adaptation, Pretraining, Schedule, of_config
from recipes.claims.claim import Claim, Criterion, Plan, Variant, accuracy_ahead
from recipes.claims.record import Evidence, Record, differences, final, row
from recipes.intervals import interval
from recipes.pages.tables import Line, percent, points
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

CLASSES = 5
UNIT: dict[str, Any] = {"feature_norm": "unit", "scale": unit_scale(CLASSES)}
"""Features and class vectors of unit length, and the scale that gives 99% to the right class once
features have collapsed to a simplex ETF."""

LEARNED, CLASS_MEANS, ETF = "nn.Linear", "class means", "simplex ETF"

HEADS: dict[str, dict[str, Any]] = {
    LEARNED: {"head": "learned"},
    "learned cosines": {"head": "learned-unit", **UNIT},
    CLASS_MEANS: {"head": "prototypes", **UNIT},
    "centred class means": {"head": "class-mean", **UNIT},
    ETF: {"head": "compound", **UNIT},
}
"""Of fine-tuning; the third is the classifier of the paper, as far as it is known to us."""

RATES = (0.03, 0.1, 0.3)
TUNING = Schedule(epochs=20, lr=RATES[0], weight_decay=5e-4)


def fine_tuned(config: RunConfig, *, head: dict[str, Any]) -> RunResult:
    """A run of the claim; see :func:`recipes.adaptation.runs.adapt`."""
    shared = of_config(config)
    source = Pretraining(
        **shared,
        output=config.run_dir.with_name(f"pretraining-seed{config.seed}"),
        images="shifted-digits",
        backbone="cnn",
        width=config.width,
        features=config.features,
        schedule=Schedule(epochs=config.epochs, lr=0.05, weight_decay=5e-4),
    )
    run = Adaptation(
        **shared, output=config.run_dir, source=source, schedule=TUNING, rates=RATES, **head
    )
    return adapt(run)


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Class means, and the fixed head, against nn.Linear, in the domain and out of it."""
    others = shifted(evidence[LEARNED])
    for name, why in (
        (CLASS_MEANS, "the paper: class means are more accurate out of the domain"),
        (ETF, "ours: whether a fixed head is"),
    ):
        yield Criterion(
            f"accuracy on images from elsewhere, {name} less {LEARNED}, in points",
            [100 * ahead for ahead in differences(shifted(evidence[name]), others)],
            "at least",
            1.0,
            why,
        )
    for name in (CLASS_MEANS, ETF):
        yield accuracy_ahead(
            evidence, (name, LEARNED), "at least", -0.5, "at no loss in the domain of the training"
        )


def shifted(records: Sequence[Record]) -> list[float]:
    """Accuracy on the images from elsewhere, at the end of each run."""
    return final(records, "shifted")


def lines(evidence: Evidence) -> Iterator[Line]:
    """Accuracy on the images from elsewhere."""
    learned, *others = map(shifted, evidence.values())
    ahead = (points(interval(differences(own, learned))) for own in others)
    yield row("accuracy on images from elsewhere", evidence, shifted, percent)
    yield (f"points ahead of {LEARNED} there", "", *ahead)


VARIANTS = {
    name: Variant(run=partial(fine_tuned, head=settings)) for name, settings in HEADS.items()
}
SEEDS = tuple(range(10, 34))

CLAIM = Claim(
    name="class-means",
    title="Class means as the classifier of fine-tuning, and images from elsewhere",
    says=(
        "“Generalized neural collapse for a large number of classes” (Jiang et al., ICML 2024): "
        "fine-tuning with the class means of the features as classifier (CMF) instead of a learned "
        "one makes a pretrained network more accurate out of the domain of the fine-tuning. Here "
        "ClassMeanHead with centred=False and features of unit length, our reading of the "
        "authors' code, with a fixed simplex ETF beside it, which is our own question. A CNN is "
        "pretrained on the digits 5 to 9 of MNIST and of scikit-learn's scans, and fine-tuned on "
        "300 images of 0 to 4 from MNIST; scans of 0 to 4 are out of the domain. The learning rate "
        "of each run is the best of three on images of the domain that are held out."
    ),
    plans={
        "reduced": Plan(
            "multi-digits",
            {"data": "mnist", "width": 16, "features": 64, "epochs": 10},
            VARIANTS,
            SEEDS,
        ),
        "full": Plan(
            "multi-digits",
            {"data": "mnist", "width": 64, "features": 128, "epochs": 30},
            VARIANTS,
            SEEDS,
        ),
    },
    judge=judge,
    measures=(),
    lines=lines,
)
