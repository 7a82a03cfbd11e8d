"""Summary of the conversions of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.comparison.summary import shared_settings
from recipes.conversion.swap import KEPT
from recipes.intervals import Interval, interval
from recipes.provenance import Provenance, commit
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig


@dataclass(frozen=True)
class Converted:
    """One trained network, swapped in one way and fine-tuned; test accuracies, means over tasks.

    Attributes:
        head: the learned head that the network was trained with.
        seed: of its training.
        way: one of ``CONVERSIONS``, or ``KEPT``.
        rate: highest learning rate of the epoch of fine-tuning.
        trained: accuracy of the trained network.
        swapped: of the converted one, before any training.
        tuned: after one epoch.
    """

    head: str
    seed: int
    way: str
    rate: float
    trained: float
    swapped: float
    tuned: float


def converted(trained: RunResult, way: str, config: RunConfig, tuned: RunResult) -> Converted:
    """From the result of a training, and of the fine-tuning that followed it."""
    swapped, after = (row.test.mean_accuracy for row in tuned.history)
    before = trained.history[-1].test.mean_accuracy
    return Converted(trained.config["head"], config.seed, way, config.lr, before, swapped, after)


@dataclass(frozen=True)
class FineTuned:
    """Networks after an epoch of fine-tuning, all paired by seed.

    Attributes:
        accuracy: on the test images.
        difference: this less the accuracy of the trained networks.
        to_kept: this less that of the learned heads trained on as much.
    """

    accuracy: Interval
    difference: Interval
    to_kept: Interval


@dataclass(frozen=True)
class Way:
    """Networks converted in one way.

    Attributes:
        swapped: accuracy before any training.
        swap: this less the accuracy of the trained networks.
        tuned: after an epoch, for each rate in order.
    """

    swapped: Interval
    swap: Interval
    tuned: list[FineTuned]


@dataclass(frozen=True)
class Conversions:
    """The conversions of one learned head: accuracy of its trained networks, and each way."""

    trained: Interval
    ways: dict[str, Way]


@dataclass(frozen=True)
class Summary:
    """Conversions beside each other, each with the same seeds; ``convert.json``.

    Attributes:
        rates: learning rates of the epoch of fine-tuning.
        heads: by learned head.
        runs: all of them.
        seeds: of the trainings.
        settings: those that all trainings share.
        provenance: of the first training.
        converted: commit of the conversions.
    """

    rates: list[float]
    heads: dict[str, Conversions]
    runs: list[Converted]
    seeds: list[int]
    settings: dict[str, Any]
    provenance: Provenance
    converted: str | None


def summarise(runs: Sequence[Converted], first: RunResult) -> Summary:
    """Put conversions, each with the same seeds, beside each other.

    Args:
        runs: the conversions.
        first: the first training.
    """
    rates = list(dict.fromkeys(run.rate for run in runs))
    ways = list(dict.fromkeys(run.way for run in runs))

    def of(head: str, way: str, rate: float = rates[0]) -> list[Converted]:
        return [r for r in runs if (r.head, r.way, r.rate) == (head, way, rate)]

    def way_of(head: str, way: str) -> Way:
        return Way(
            swapped=interval([r.swapped for r in of(head, way)]),
            swap=interval([r.swapped - r.trained for r in of(head, way)]),
            tuned=[_fine_tuned(of(head, way, rate), of(head, KEPT, rate)) for rate in rates],
        )

    return Summary(
        rates=rates,
        heads={
            head: Conversions(
                trained=interval([r.trained for r in of(head, KEPT)]),
                ways={way: way_of(head, way) for way in ways},
            )
            for head in dict.fromkeys(run.head for run in runs)
        },
        runs=list(runs),
        seeds=list(dict.fromkeys(run.seed for run in runs)),
        settings=shared_settings(first),
        provenance=first.provenance,
        converted=commit(),
    )


def _fine_tuned(runs: Sequence[Converted], kept: Sequence[Converted]) -> FineTuned:
    return FineTuned(
        accuracy=interval([r.tuned for r in runs]),
        difference=interval([r.tuned - r.trained for r in runs]),
        to_kept=interval([r.tuned - k.tuned for r, k in zip(runs, kept, strict=True)]),
    )
