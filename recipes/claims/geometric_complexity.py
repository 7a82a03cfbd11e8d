"""Geometric complexity of features, and how far their classes collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads.collapse import SingleTaskCollapse, geometric_complexity
from recipes.claims.claim import Claim, Criterion, Plan, Settings, Variant
from recipes.claims.perceptrons import Perceptron, Problem, Samples, digits, learn, perceptron
from recipes.claims.record import Evidence, Record, number, quotients, row
from recipes.pages.tables import Line

CLASSES, FEATURES = 10, 64
Measures = Mapping[str, float | None]
"""Of one network, by name."""

STOP = 0.02
"""The training loss at which networks are compared."""

REDUCED = {"epochs": 40, "batch_size": 64, "lr": 0.1, "weight_decay": 0.0}

RATES = (0.05, 0.1, 0.2, 0.3, 0.5)
BATCHES = (8, 16, 32, 64, 128)
PENALTIES = (1e-4, 1e-3, 1e-2)
DECAY = 1e-3


def classifier(*, penalty: float) -> Problem:
    """Digits by a perceptron, with so much of the geometric complexity of its features added."""
    train, test = digits()
    features = perceptron(train.inputs.shape[1], 256, FEATURES)

    def complexity(inputs: Tensor) -> Tensor:
        return penalty * geometric_complexity(features, inputs, 1)

    return Problem(
        network=Perceptron(features, nn.Linear(FEATURES, CLASSES)),
        loss=F.cross_entropy,
        train=train,
        test=test,
        measure=measure,
        tasks={"digit": CLASSES},
        penalty=complexity if penalty else None,
    )


def measure(network: Perceptron, samples: Samples) -> dict[str, float]:
    """Geometric complexity of the features, CDNV, and the bound on it but for its constant."""
    inputs, labels = samples.inputs, samples.targets
    with torch.no_grad():
        collapse = SingleTaskCollapse(FEATURES, CLASSES).to(inputs.device)
        collapse.update(network.backbone(inputs), labels)
        each = torch.stack(
            [geometric_complexity(network.backbone, inputs[labels == k]) for k in range(CLASSES)]
        ).double()
    statistics = collapse.class_statistics()
    i, j = torch.triu_indices(CLASSES, CLASSES, 1)
    distances = (statistics.means[i] - statistics.means[j]).square().sum(1)
    whole = (statistics.counts * each).sum() / statistics.counts.sum()
    return {
        "gc": float(whole),
        "cdnv": collapse.compute()["cdnv"],
        "bound": float(((each[i] + each[j]) / (2 * distances)).mean()),
    }


PLAIN = "plain"


def _sweep(
    name: str, setting: str, values: Sequence[float], plain: float
) -> dict[str, tuple[Settings, float]]:
    """Settings and penalty of each value, by name; the plain ones are one variant of all sweeps."""
    return {f"{name} {v:g}": ({setting: v}, 0.0) for v in values if v != plain}


SETTINGS: dict[str, tuple[Settings, float]] = {
    PLAIN: ({}, 0.0),
    **_sweep("learning rate", "lr", RATES, REDUCED["lr"]),
    **_sweep("batch", "batch_size", BATCHES, REDUCED["batch_size"]),
    **{f"penalty {value:g}": ({}, value) for value in PENALTIES},
    f"decay {DECAY:g}": ({"weight_decay": DECAY}, 0.0),
}

SWEEPS = {
    "learning rate": [PLAIN, *(name for name in SETTINGS if name.startswith("learning rate"))],
    "batch size": [PLAIN, *(name for name in SETTINGS if name.startswith("batch"))],
}
"""Variants that differ in one setting."""

VARIANTS = {
    name: Variant(
        settings, run=partial(learn, problem=classifier, momentum=0.0, stop=STOP, penalty=penalty)
    )
    for name, (settings, penalty) in SETTINGS.items()
}

ONE_LOSS = (
    "at one loss, the variance of features is bounded by their complexity, and what trained longer "
    "is not compared with what trained less; seen in runs before, with other seeds"
)


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Networks of one training loss are the more collapsed, the simpler their features."""
    for title, names in SWEEPS.items():
        yield Criterion(
            f"{title}: rank correlation of geometric complexity and CDNV at training loss {STOP:g}",
            correlations(evidence, names, "cdnv", stopped),
            "at least",
            0.8,
            ONE_LOSS,
        )
    plain, penalised = (
        _numbers(evidence[name], moment=stopped, name="cdnv")
        for name in (PLAIN, f"penalty {PENALTIES[-1]:g}")
    )
    yield Criterion(
        "CDNV with the strongest penalty over that without, at one training loss",
        quotients(penalised, plain),
        "at most",
        0.9,
        "a tenth less; seen in runs before, at the strongest penalty only",
    )


def stopped(record: Record) -> Measures:
    """The measures at the training loss of the comparison; none if it was not reached."""
    measures = (epoch.collapse for epoch in record.history[1:] if epoch.train.loss <= STOP)
    return next(measures, {})


def after_epochs(record: Record) -> Measures:
    """The measures after as many epochs as the plan says."""
    epochs = record.settings["epochs"]
    return next(own.collapse for own in reversed(record.history) if own.epoch == epochs)


def correlations(
    evidence: Evidence,
    names: Sequence[str],
    measure: str,
    moment: Callable[[Record], Measures],
) -> list[float]:
    """Spearman's of geometric complexity and another measure over variants, one a seed."""
    complexities, others = (
        zip(*(_numbers(evidence[name], moment=moment, name=own) for name in names), strict=True)
        for own in ("gc", measure)
    )
    return [float(spearmanr(x, y).statistic) for x, y in zip(complexities, others, strict=True)]


def _numbers(
    records: Sequence[Record], *, moment: Callable[[Record], Measures], name: str
) -> list[float]:
    return [number(moment(record).get(name)) for record in records]


TITLES = {
    "gc": "geometric complexity of the features",
    "cdnv": "CDNV",
    "bound": "its bound over the Poincaré constant",
}
MOMENTS = {f"at training loss {STOP:g}": stopped, "after the epochs": after_epochs}


def lines(evidence: Evidence) -> Iterator[Line]:
    """The measures of every variant at both moments, and the epochs to the first."""
    for when, moment in MOMENTS.items():
        for name, title in TITLES.items():
            yield row(f"{title}, {when}", evidence, partial(_numbers, moment=moment, name=name))
    yield row("epochs to it", evidence, lambda own: list(map(_epochs, own)))


def _epochs(record: Record) -> float:
    reached = (float(own.epoch) for own in record.history[1:] if own.train.loss <= STOP)
    return next(reached, math.nan)


CLAIM = Claim(
    name="geometric-complexity",
    title="Geometric complexity of features and their collapse",
    says=(
        "Munn, Dherin and Gonzalvo, “The impact of geometric complexity on neural collapse in "
        "transfer learning” (NeurIPS 2024): where the inputs of a class obey a Poincaré "
        "inequality, the variance of their features is bounded by the geometric complexity of the "
        "map to them, the mean squared norm of its Jacobian; so what lowers it (learning rate, "
        "batch size, a penalty) brings collapse. A finite sample has no such constant: what is "
        "tested is the trend. Our reading: on the digits, by plain SGD until one training loss, by "
        "CDNV of the training images as the measure of collapse. The numbers after equally many "
        "epochs are shown beside, without a criterion."
    ),
    plans={
        "reduced": Plan("multi-digits", REDUCED, VARIANTS, seeds=(10, 11, 12)),
        "full": Plan("multi-digits", REDUCED, VARIANTS, seeds=tuple(range(10, 20))),
    },
    judge=judge,
    measures=(),
    lines=lines,
)
