"""Several regularised layers: class means of low rank in place of collapse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads.collapse import LayerwiseCollapse, SingleTaskCollapse
from recipes.claims.claim import Claim, Criterion, Plan, Variant
from recipes.claims.perceptrons import Perceptron, Problem, Samples, digits, learn, perceptron
from recipes.claims.record import Evidence, Record, differences, final, last_accuracy
from recipes.intervals import interval
from recipes.pages.tables import Line, measured

CLASSES, WIDTH = 10, 64

REDUCED = {"epochs": 500, "batch_size": 64, "lr": 0.05}


def stack(*, depth: int) -> Problem:
    """Digits by a perceptron, and so many layers without biases, of which alone there is decay."""
    train, test = digits()
    sizes = [WIDTH] * depth + [CLASSES]
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
    hidden = [part for layer in layers[:-1] for part in (layer, nn.ReLU())]
    features = perceptron(train.inputs.shape[1], 256, 256, WIDTH)
    return Problem(
        network=Perceptron(nn.Sequential(*features, *hidden), layers[-1]),
        loss=squared_error,
        train=train,
        test=test,
        measure=partial(measure, depth=depth),
        tasks={"digit": CLASSES},
        decayed=[*nn.ModuleList(layers).parameters()],
    )


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half the squared distance to the one-hot label, as in the model of the theory."""
    return 0.5 * (outputs - F.one_hot(labels, CLASSES)).square().sum(1).mean()


@torch.no_grad()
def measure(network: Perceptron, samples: Samples, *, depth: int) -> dict[str, float]:
    """Ranks of the class means that layers 2, ..., L take in, before ReLU; NC1 of the last."""
    count = len([*network.backbone.children()])
    names = [f"backbone.{i}" for i in range(count - 2 * (depth - 1), count, 2)]
    with LayerwiseCollapse(network, names, lambda d: SingleTaskCollapse(d, CLASSES)) as layers:
        network(samples.inputs)
        layers.update(samples.targets)
    ranks = {
        f"rank {number}": float(rank)
        for number, rank in enumerate(layers.ranks(centred=False).values(), 2)
    }
    return ranks | {"nc1_ratio": layers.compute()[names[-1]]["nc1_ratio"]}


def _name(depth: int, decay: float) -> str:
    return f"L = {depth}, decay {decay:g}"


SHALLOW, DEEP, DECAYED = _name(2, 5e-3), _name(4, 1e-3), _name(4, 3e-3)

VARIANTS = {
    _name(depth, decay): Variant(
        {"weight_decay": decay}, run=partial(learn, problem=stack, depth=depth)
    )
    for depth, decay in ((2, 1e-3), (2, 5e-3), (4, 1e-3), (4, 3e-3))
}

GRAPH = (
    "the graph construction for ten classes has rank 5, collapse 10; between them: six runs before"
)


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Four layers keep fewer directions than there are classes, two do not, and all images fit."""
    why = "a rank that is low because training failed says nothing"
    for name, own in evidence.items():
        accuracy = last_accuracy(own, "train")
        yield Criterion(f"{name}: training accuracy", accuracy, "at least", 0.99, why)
    yield Criterion(
        f"{SHALLOW}: rank of the class means before layer 2",
        final(evidence[SHALLOW], "rank 2"),
        "at least",
        9.0,
        "with two layers collapse is optimal at every decay: rank 10, or 9 where one is too small",
    )
    for layer in (2, 3):
        yield Criterion(
            f"{DEEP}: rank of the class means before layer {layer}",
            final(evidence[DEEP], f"rank {layer}"),
            "at most",
            7.0,
            GRAPH,
        )
    falls = [
        differences(final(evidence[DEEP], rank), final(evidence[DECAYED], rank))
        for rank in ("rank 2", "rank 3")
    ]
    yield Criterion(
        "L = 4: mean rank before layers 2 and 3 at decay 0.001 less that at 0.003",
        [fmean(seed) for seed in zip(*falls, strict=True)],
        "at least",
        0.5,
        "the more decay, the lower the rank; ranks are whole numbers, so less than a half is none",
    )
    for name in (SHALLOW, DEEP, DECAYED):
        yield Criterion(
            f"{name}: NC1 before the last layer",
            final(evidence[name], "nc1_ratio"),
            "at most",
            0.15,
            "images of a class have to be alike, else the means say little",
        )


def lines(evidence: Evidence) -> list[Line]:
    """Mean rank before each layer, and NC1."""
    titles = {f"rank {layer}": f"rank before layer {layer}" for layer in (2, 3, 4)}
    titles["nc1_ratio"] = "NC1 before the last layer"
    return [
        (title, *(_cell(own, name) for own in evidence.values())) for name, title in titles.items()
    ]


def _cell(records: Sequence[Record], name: str) -> str:
    """Empty where there is no such layer."""
    known = name in records[0].history[-1].collapse
    return measured(interval(final(records, name))) if known else ""


CLAIM = Claim(
    name="low-rank",
    title="Several regularised layers: low rank in place of collapse",
    says=(
        "Súkeník, Mondelli and Lampert, “Neural collapse versus low-rank bias: is deep neural "
        "collapse really optimal?” (NeurIPS 2024): with more than two classes and layers above "
        "free features, under squared error and weight decay, class means of lower rank cost less "
        "than collapsed ones, and networks have a low rank. Our reading: digits, a perceptron, and "
        "L layers without biases on top, which alone have weight decay; the rank is the number of "
        "singular values of the ten class means above a twentieth of the largest, before ReLU. "
        "etf_heads.theory has the costs (deep_collapse_value, triangular_graph_value)."
    ),
    plans={
        "reduced": Plan("multi-digits", REDUCED, VARIANTS, seeds=(10, 11, 12)),
        "full": Plan("multi-digits", REDUCED | {"epochs": 2000}, VARIANTS),
    },
    judge=judge,
    measures=(),
    lines=lines,
)
