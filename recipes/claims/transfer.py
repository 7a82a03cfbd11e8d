"""Transfer of features that have collapsed too far, and collapse layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

from recipes.adaptation.runs import adapt
from recipes.adaptation.settings import Adaptation, Pretraining, Schedule, of_config
from recipes.claims.claim import Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, initial, last_accuracy, row
from recipes.intervals import rank_correlation
from recipes.pages.tables import Line
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

CHECKPOINTS = (6, 19, 63, 188)
"""Epochs of pretraining: of 16 steps each, about 100, 300, 1,000 and 3,000 steps."""

LAYERS = ("backbone.1", "backbone.2", "backbone.3")
"""Hidden layers; the last of them are the features."""

LABELS = ("parity", "digit")
"""Of the pretraining; with the second, what collapses is what is asked for later."""

FITTED = 0.1
"""Loss below which the pretraining images count as learned."""

RATES = (0.003, 0.01, 0.03, 0.1)


def transferred(config: RunConfig, *, labels: str, checkpoint: int) -> RunResult:
    """A run of the claim; see :func:`recipes.adaptation.runs.adapt`."""
    shared = of_config(config)
    kept = tuple(min(epoch, config.epochs) for epoch in CHECKPOINTS)
    source = Pretraining(
        **shared,
        output=config.run_dir.with_name(f"pretraining-{labels}-seed{config.seed}"),
        images=labels,
        backbone="mlp3-no-norm",
        width=config.width,
        features=config.features,
        schedule=Schedule(epochs=config.epochs, lr=0.02, weight_decay=5e-3),
        checkpoints=kept,
        layers=LAYERS,
    )
    run = Adaptation(
        **shared,
        output=config.run_dir,
        source=source,
        checkpoint=min(checkpoint, config.epochs),
        schedule=Schedule(epochs=31, lr=RATES[0]),
        rates=RATES,
    )
    return adapt(run)


def _name(labels: str, checkpoint: int) -> str:
    return f"{labels}, {checkpoint} epochs"


VARIANTS = {
    _name(labels, epoch): Variant(run=partial(transferred, labels=labels, checkpoint=epoch))
    for labels in LABELS
    for epoch in CHECKPOINTS
}


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """What collapses on two classes is lost for ten, unless it collapses on these."""
    accuracy = {name: last_accuracy(records) for name, records in evidence.items()}
    parity, digit = ([accuracy[_name(own, e)] for e in CHECKPOINTS] for own in LABELS)
    yield Criterion(
        "parity: rank correlation of the variance of the features and the accuracy after "
        f"fine-tuning, over checkpoints with a loss below {FITTED:g}",
        correlations(evidence),
        "at least",
        0.8,
        "the paper: the more collapsed, the worse for another task",
    )
    yield Criterion(
        "parity: accuracy after fine-tuning from the last checkpoint less that from the best, in "
        "points",
        [100 * (own[-1] - max(own)) for own in zip(*parity, strict=True)],
        "at most",
        -3.0,
        "a difference that matters: 2,000 test images are known to 0.9 points",
    )
    yield Criterion(
        "digit: accuracy after fine-tuning from the last checkpoint less that from the first, in "
        "points",
        [100 * (own[-1] - own[0]) for own in zip(*digit, strict=True)],
        "at least",
        0.0,
        "ours, the control: longer training alone does not harm, if the classes are those asked "
        "for later",
    )
    for epoch in CHECKPOINTS:
        records = evidence[_name(LABELS[0], epoch)]
        values = zip(*(initial(records, f"source_{layer}") for layer in LAYERS), strict=True)
        yield Criterion(
            f"parity, {epoch} epochs: largest quotient of a layer's variance and that of the layer "
            "before it",
            [max(after / before for before, after in pairwise(own)) for own in values],
            "at most",
            1.0,
            "the paper: collapse cascades, later layers are more collapsed",
        )


def correlations(evidence: Evidence) -> list[float]:
    """Rank correlation over the fitted checkpoints of parity, a number for each seed."""
    rows = [evidence[_name(LABELS[0], epoch)] for epoch in CHECKPOINTS]
    rows_measured = [
        zip(
            initial(records, "source_loss"),
            initial(records, "source_variance"),
            last_accuracy(records),
            strict=True,
        )
        for records in rows
    ]
    found = []
    for checkpoints in zip(*rows_measured, strict=True):
        fitted = [(x, y) for loss, x, y in checkpoints if loss < FITTED]
        found.append(rank_correlation([x for x, _ in fitted], [y for _, y in fitted]))
    return found


def lines(evidence: Evidence) -> list[Line]:
    """Loss of the pretraining, and variance of its layers."""
    rows = {"loss of the pretraining": "source_loss"} | {
        f"variance after hidden layer {i}": f"source_{layer}" for i, layer in enumerate(LAYERS, 1)
    }
    return [row(title, evidence, partial(initial, measure=name)) for title, name in rows.items()]


CLAIM = Claim(
    name="transfer",
    title="Collapsed features and another task",
    says=(
        "“Limitations of neural collapse for understanding generalization in deep learning” (Hui, "
        "Belkin and Nakkiran, 2022): features that have collapsed on a coarse task are worse for a "
        "finer one, and collapse cascades through the layers. An MLP of three hidden layers is "
        "pretrained on the parity of 1,000 MNIST digits for longer and longer, and then fine-tuned "
        "in all its weights on the ten digits of 500 other images, at the best of four learning "
        "rates on images held out. The control, which is ours, pretrains on the ten digits."
    ),
    plans={
        "reduced": Plan(
            "multi-digits",
            {"data": "mnist", "width": 256, "features": 256, "epochs": CHECKPOINTS[-1]},
            VARIANTS,
            seeds=(10, 11, 12),
        ),
        "full": Plan(
            "multi-digits",
            {"data": "mnist", "width": 1024, "features": 1024, "epochs": CHECKPOINTS[-1]},
            VARIANTS,
        ),
    },
    judge=judge,
    measures=(),
    lines=lines,
)
