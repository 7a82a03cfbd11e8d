"""Collapse without anything to learn: random labels, random pixels; and d = K."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recipes.claims.claim import (
    BATCH_NORM,
    Claim,
    Criterion,
    Plan,
    Settings,
    Variant,
    accuracy_ahead,
)
from recipes.claims.record import Evidence, final, last_accuracy, quotients
from recipes.pages.tables import Line

CLASSES, WIDE = 10, 60

LEARNED: Settings = {
    "data": "mnist",
    "train_images": 1_000,
    "test_images": 2_000,
    "augment": False,
    "head": "learned",
    "backbone": "mlp3",
    "batch_size": 100,
    "lr": 3e-3,
    "weight_decay": 0.1,
    "measure_every": 120,
}
"""1,000 MNIST images without a relation to their labels, learned by heart by three layers."""

WIDTHS = (16, 64, 256)
EPOCHS = (30, 120)
ENOUGH = WIDTHS[1:]
"""Units with which all labels are learned."""

DIMENSIONS: Settings = {
    "data": "mnist",
    "train_images": 4_000,
    "test_images": 5_000,
    "augment": False,
    "image_size": 14,
    "backbone": "cnn",
    "width": 16,
    "epochs": 16,
    "batch_size": 200,
    "measure_every": 16,
}
"""MNIST as it is, for heads of as many dimensions as classes."""

NARROW, NORMED, WIDEST = "fixed, d = 10", "fixed, d = 10, batch norm", "learned, d = 60"


def _name(random: str, width: int, epochs: int) -> str:
    return f"random {random}, {width} units, {epochs} epochs"


def _variants(learned: Settings, dimensions: Settings) -> Mapping[str, Variant]:
    runs = [("labels", width, epochs) for width in WIDTHS for epochs in EPOCHS]
    runs += [("pixels", width, EPOCHS[-1]) for width in WIDTHS]
    return {
        **{
            _name(random, width, epochs): Variant(
                {**learned, "random": random, "width": width, "features": width, "epochs": epochs}
            )
            for random, width, epochs in runs
        },
        NARROW: Variant({**dimensions, "head": "compound", "features": CLASSES}),
        NORMED: Variant({**dimensions, **BATCH_NORM, "head": "compound", "features": CLASSES}),
        WIDEST: Variant({**dimensions, "head": "learned", "features": WIDE}),
    }


VARIANTS = _variants(LEARNED, DIMENSIONS)


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Width and time bring collapse, whatever the labels; d = K is enough for fixed heads."""
    for random in ("labels", "pixels"):
        narrow, wide = (
            final(evidence[_name(random, width, EPOCHS[-1])], "m_nc1")
            for width in (WIDTHS[0], WIDTHS[-1])
        )
        yield Criterion(
            f"random {random}: NC1 of {WIDTHS[-1]} units over that of {WIDTHS[0]}",
            quotients(wide, narrow),
            "at most",
            0.2,
            "the paper: the wider a network, the nearer to an unconstrained feature model",
        )
    for width in WIDTHS:
        short, long = (final(evidence[_name("labels", width, e)], "m_nc1") for e in EPOCHS)
        yield Criterion(
            f"random labels, {width} units: NC1 after {EPOCHS[1]} epochs over that after "
            f"{EPOCHS[0]}",
            quotients(long, short),
            "at most",
            1.0,
            "collapse goes on in the terminal phase",
        )
    for random in ("labels", "pixels"):
        for width in ENOUGH:
            yield Criterion(
                f"random {random}, {width} units: training accuracy",
                last_accuracy(evidence[_name(random, width, EPOCHS[-1])], "train"),
                "at least",
                1.0,
                "wide networks learn anything by heart",
            )
    yield accuracy_ahead(
        evidence,
        (NARROW, WIDEST),
        "at least",
        -0.5,
        "one deviation of an accuracy near 97% of 5,000 images, doubled",
    )


def lines(evidence: Evidence) -> Iterator[Line]:
    """NC1, which the ratio of traces does not replace here, and the head's parameters."""
    nc1 = (final(own, "m_nc1") for own in evidence.values())
    yield ("NC1, tr(Σ_W Σ_B⁺)/K", *(f"{sum(own) / len(own):.3g}" for own in nc1))
    yield ("head parameters", *(f"{r[0].counts.head_parameters:,}" for r in evidence.values()))


FULL: Settings = {"backbone": "resnet18", "epochs": 200, "width": 64, "batch_size": 128}

CLAIM = Claim(
    name="random-labels",
    title="Random labels, random pixels, and heads of as many dimensions as classes",
    says=(
        "“A geometric analysis of neural collapse with unconstrained features” (Zhu et al., "
        "NeurIPS 2021): collapse is a property of optimisation, not of the data: networks that "
        "are wide enough collapse on random labels as well. And a head fixed to a simplex ETF of "
        "as many dimensions as classes costs no accuracy. Random labels: those of the images, "
        "shuffled. Random pixels: uniform, each on its own."
    ),
    plans={
        "reduced": Plan("multi-digits", {}, VARIANTS, seeds=(10, 11, 12)),
        "full": Plan(
            "multi-digits",
            {},
            _variants(
                {**LEARNED, "train_images": None}, {**DIMENSIONS, **FULL, "train_images": None}
            ),
        ),
    },
    judge=judge,
    measures=("m_nc1_ratio", "m_nc2_angles_means"),
    lines=lines,
)
