"""The law of data separation: fuzziness falls by the same factor in every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from etf_heads.collapse import (
    LayerwiseCollapse,
    SingleTaskCollapse,
    plot_layers,
    separation_fuzziness,
    separation_law,
)
from recipes.claims.claim import Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, Record, extras
from recipes.data import DataOptions, load_data
from recipes.data.images import ImageData, ImageSet
from recipes.pages.canvas import new_figure, svg_text
from recipes.pages.page import Figure
from recipes.pages.tables import Line
from recipes.training.network import Network
from recipes.training.result import RunResult

DIGITS, SEEN = 10, 5
"""Classes of MNIST, and those of training where the others are measured as unseen ones."""

REDUCED = {
    "data": "mnist",
    "image_size": 10,
    "train_images": 1_000,
    "test_images": 2_000,
    "augment": False,
    "head": "learned",
    "width": 100,
    "features": 100,
    "epochs": 150,
    "batch_size": 128,
    "lr": 1e-3,
    "weight_decay": 0.1,
    "measure_every": 150,
}
"""The authors' layers of 100 units, 1,000 images of 10 x 10 pixels and batches of 128; a quarter of
their epochs, with the optimiser of the recipes."""

LAWFUL = ("3 layers", "7 layers")
CONTROLS = ("7 layers, no batch norm", "7 layers, no ReLU")
PHASES = f"7 layers, digits 0 to {SEEN - 1}"

VARIANTS = {
    "3 layers": Variant({"backbone": "mlp3"}),
    "7 layers": Variant({"backbone": "mlp7"}),
    "12 layers": Variant({"backbone": "mlp12"}),
    "7 layers, no batch norm": Variant({"backbone": "mlp7-no-norm"}),
    "7 layers, no ReLU": Variant({"backbone": "mlp7-no-relu"}),
    PHASES: Variant({"backbone": "mlp7", "classes": (SEEN,)}),
}


@dataclass(frozen=True)
class Layers:
    """Separation fuzziness of the input and after each layer.

    Attributes:
        seen: of the training images.
        unseen: of as many training images of the other digits; empty where there are none.
    """

    seen: list[float]
    unseen: list[float]


def examine(network: Network, data: ImageData, result: RunResult) -> Layers:
    """The fuzziness of the digits that were trained on, and of the others."""
    (classes,) = data.tasks.values()
    seen = fuzziness(network, data.train)
    if classes == DIGITS:
        return Layers(seen, [])
    config = result.config
    options = DataOptions(
        root=Path(config["root"]),
        image_size=config["image_size"],
        train_images=len(data.train) * DIGITS // classes,
    )
    every = load_data(config["data"], options).train.to(data.train.images.device)
    return Layers(seen, fuzziness(network, every.of(every.labels[:, 0] >= classes)))


@torch.inference_mode()
def fuzziness(network: Network, data: ImageSet) -> list[float]:
    """Separation fuzziness of the pixels, and of the output of each layer, in evaluation mode."""
    blocks = network.backbone.named_children()
    layers = [f"backbone.{name}" for name, block in blocks if isinstance(block, nn.Sequential)]
    with LayerwiseCollapse(
        network,
        ["standardise", *layers],
        lambda dim: SingleTaskCollapse(dim, DIGITS),
        pool=lambda output: output.flatten(1).double(),
    ) as watched:
        network.features(data.images)
        watched.update(data.labels[:, 0])
    return [separation_fuzziness(own.class_statistics()) for own in watched.measures.values()]


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """A straight line in logarithms, what it takes, and what becomes of unseen classes."""
    for name in LAWFUL:
        yield Criterion(
            f"{name}: correlation of the layer with the logarithm of its fuzziness",
            _correlations(evidence[name]),
            "at most",
            -0.95,
            "the paper: the fuzziness falls by a constant factor; -1 is a straight line",
        )
        yield Criterion(
            f"{name}: fuzziness after the last layer over that of the pixels",
            [own.seen[-1] / own.seen[0] for own in extras(evidence[name], Layers)],
            "at most",
            0.05,
            "classes have to be separated, or the line says nothing",
        )
    for name in CONTROLS:
        yield Criterion(
            f"{name}: the same correlation",
            _correlations(evidence[name]),
            "at least",
            -0.8,
            "ours: without one of the two there is no such line",
        )
    found = extras(evidence[PHASES], Layers)
    why = "ours: early layers help classes that were not trained on, late ones collapse them"
    yield Criterion(
        "digits of training: largest factor from one layer to the next",
        [max(b / a for a, b in pairwise(own.seen)) for own in found],
        "at most",
        1.0,
        "the paper: every layer separates the classes of training",
    )
    yield Criterion(
        "unseen digits: least fuzziness between pixels and last layer, over the lesser of these",
        [min(own.unseen[1:-1]) / min(own.unseen[0], own.unseen[-1]) for own in found],
        "at most",
        1.0,
        why,
    )
    yield Criterion(
        "unseen digits: fuzziness after the last layer over the least of all",
        [own.unseen[-1] / min(own.unseen) for own in found],
        "at least",
        2.0,
        why,
    )


def _correlations(records: Sequence[Record]) -> list[float]:
    return [separation_law(own.seen)["correlation"] for own in extras(records, Layers)]


def lines(evidence: Evidence) -> Iterator[Line]:
    """Fuzziness and the fitted law of each variant, means over seeds."""
    found = [extras(own, Layers) for own in evidence.values()]
    laws = [[separation_law(own.seen) for own in runs] for runs in found]
    unseen = [[own.unseen for own in runs if own.unseen] for runs in found]
    for title, name in (
        ("factor a layer (fitted)", "rate"),
        ("correlation", "correlation"),
        ("layers that halve the fuzziness", "half_life"),
    ):
        yield (title, *(f"{fmean(law[name] for law in runs):.3g}" for runs in laws))
    yield ("fuzziness, pixels → layers", *(_means([own.seen for own in runs]) for runs in found))
    yield ("the same, unseen digits", *(_means(runs) if runs else "–" for runs in unseen))


def _means(runs: Sequence[Sequence[float]]) -> str:
    return " → ".join(f"{fmean(layer):.2g}" for layer in zip(*runs, strict=True))


def figures(evidence: Evidence) -> list[Figure]:
    """Fuzziness from layer to layer, of the first seed."""
    figure, axes = new_figure(2, 3, width=8.2, height=5.0)
    for ax, (name, records) in zip(axes, evidence.items(), strict=True):
        first = extras(records, Layers)[0]
        plot_layers(first.seen, ax=ax)
        if first.unseen:
            ax.plot(first.unseen, "x--", color="#b8500f", label="unseen digits")
            ax.legend(fontsize="small")
        ax.set_title(name, fontsize="small")
    caption = (
        "Separation fuzziness of the training images, of the pixels (0) and after each layer, on a "
        "logarithmic axis, with the line that is fitted to it; first seed."
    )
    return [Figure(svg_text(figure), caption)]


CLAIM = Claim(
    name="separation",
    title="The law of data separation, and classes that were not trained on",
    says=(
        "He and Su, “A law of data separation in deep learning” (PNAS 2023): each layer of a "
        "trained network reduces the separation fuzziness tr(SS_w SS_b⁺) of its training images "
        "by the same factor. Tested with networks of Linear, batch normalisation and ReLU. Ours: "
        "without one of the two the line is not straight; and on digits that were not trained on "
        "the fuzziness falls in the first layers and rises in the last."
    ),
    plans={
        "reduced": Plan("multi-digits", REDUCED, VARIANTS, seeds=(10, 11, 12)),
        "full": Plan("multi-digits", REDUCED | {"epochs": 600}, VARIANTS),
    },
    judge=judge,
    measures=(),
    examine=examine,
    lines=lines,
    figures=figures,
)
