"""Unequal numbers of classes, and classes or label pairs of unequal frequency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from etf_heads import CorrelatedETFHead
from etf_heads.geometry import simplex_gram
from recipes.claims.claim import BATCH_NORM, Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, Record, extras
from recipes.claims.single_source import collapse
from recipes.comparison.figures import gram_pictures
from recipes.data.images import ImageData
from recipes.pages.page import Figure
from recipes.pages.tables import Line
from recipes.training.network import Network
from recipes.training.result import RunResult, class_cosines

UNEQUAL, CLASSES, PAIRS = "10 and 4 classes", "imbalanced classes", "imbalanced pairs"

VARIANTS = {
    "balanced": Variant(),
    UNEQUAL: Variant({"classes": (10, 4)}),
    CLASSES: Variant({"imbalance": 10.0}),
    PAIRS: Variant({"pair_imbalance": 10.0}),
}
BASE = BATCH_NORM | {"head": "learned-norm"}

STILL_SIMPLE = ("s_nc1_ratio", "s_nc2_angles", "s_nc2_norms", "s_nc3", "s_nc5")
"""Measures that do not depend on the number of classes; the weights in the sum of S_NC4 do."""


@dataclass(frozen=True)
class Prediction:
    """Cosines between all class vectors at the optimum."""

    predicted: list[list[float]] | None


def examine(network: Network, data: ImageData, _: RunResult) -> Prediction:
    """The cosines that theory predicts of these labels, with the head's default regularisation."""
    labels = data.train.labels.cpu()
    width = network.head.weight.shape[1]
    best = CorrelatedETFHead.from_labels(width, data.tasks, labels, unit_norm=False)
    return Prediction(class_cosines(best.weight, data.tasks))


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Unequal tasks collapse as equal ones do; where samples are unequal, theory gives the angles.

    A prediction that is closer to the learned cosines than the balanced ETFs are, but not by half,
    would not be worth its name.
    """
    found = collapse(evidence[UNEQUAL])
    for measure in STILL_SIMPLE:
        yield replace(found[measure], statement=f"{UNEQUAL}: {found[measure].statement}")
    for name in (CLASSES, PAIRS):
        yield Criterion(
            f"{name}: distance of the cosines from the predicted ones, as a share of that from "
            "balanced ETFs",
            [_ratio(record) for record in evidence[name]],
            "at most",
            0.5,
            "at a ratio of a half three quarters of the squared distance are explained",
        )


def _ratio(record: Record) -> float:
    gram = torch.tensor(record.gram)
    return float((gram - _predicted(record)).norm() / (gram - _etfs(record)).norm())


def lines(evidence: Evidence) -> Iterator[Line]:
    """Root mean squares of differences of cosines, means over seeds."""
    for where in ("within", "across"):
        for what in ("predicted", "balanced ETFs"):
            yield (
                f"cosines {where} tasks less {what}, rms",
                *(f"{_mean_rms(records, what, where):.2g}" for records in evidence.values()),
            )


def _mean_rms(records: Sequence[Record], what: str, where: str) -> float:
    return sum(_rms(record, what, where) for record in records) / len(records)


def _rms(record: Record, what: str, where: str) -> float:
    other = _predicted(record) if what == "predicted" else _etfs(record)
    same = torch.block_diag(*(torch.ones(k, k) for k in record.tasks.values())).bool()
    chosen = same & ~torch.eye(len(same)).bool() if where == "within" else ~same
    return float((torch.tensor(record.gram) - other)[chosen].square().mean().sqrt())


def _predicted(record: Record) -> Tensor:
    (found,) = extras([record], Prediction)
    return torch.tensor(found.predicted)


def _etfs(record: Record) -> Tensor:
    return torch.block_diag(*(simplex_gram(k) for k in record.tasks.values()))


def figures(evidence: Evidence) -> list[Figure]:
    """Learned cosines beside predicted ones."""
    grams = {}
    for name in (CLASSES, PAIRS):
        grams[f"{name}\nlearned"] = evidence[name][0].gram
        grams[f"{name}\npredicted"] = extras(evidence[name], Prediction)[0].predicted
    sizes = list(evidence[PAIRS][0].tasks.values())
    return [
        Figure(
            gram_pictures(grams, sizes),
            "Cosines between all class vectors of one run each: as learned, and at the optimum of "
            "the unconstrained feature model for the same label counts.",
        )
    ]


CLAIM = Claim(
    name="imbalance",
    title="Unequal classes, unequal samples: what bends",
    says=(
        "“Neural Collapse in Multi-Task Learning”: balanced tasks of unequal numbers of classes "
        "end in a simplex ETF each, orthogonal to each other's (Theorem 3.1). Where label pairs "
        "are not equally frequent, the unconstrained feature model bends these angles: the paper "
        "has the closed form of two binary tasks (Theorem 5.1), optimal_gram the optimum of any "
        "label counts. Here the first class of each task has ten times the images of the last, or "
        "the most frequent label pairs ten times those of the rarest, while classes are balanced. "
        "Predicted are the angles at the default regularisation of CorrelatedETFHead, which no "
        "run was asked for."
    ),
    plans={
        "reduced": Plan("multi-digits", BASE | {"epochs": 20}, VARIANTS, seeds=(0, 1)),
        "full": Plan("multi-mnist-10-10", BASE, VARIANTS),
    },
    judge=judge,
    measures=("s_nc1_ratio", "s_nc2_norms", "s_nc2_angles", "s_nc3", "s_nc4", "s_nc5"),
    examine=examine,
    lines=lines,
    figures=figures,
)
