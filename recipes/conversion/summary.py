"""Summary of the conversions of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recipes.comparison.summary import interval, mean_accuracy
from recipes.conversion.swap import KEPT
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

Summary = dict[str, Any]
"""The contents of ``convert.json``, without its provenance."""


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
    swapped, after = (mean_accuracy(row) for row in tuned.history)
    before = mean_accuracy(trained.history[-1])
    return Converted(trained.config["head"], config.seed, way, config.lr, before, swapped, after)


def summarise(runs: Sequence[Converted]) -> Summary:
    """Put conversions beside each other, each with the same seeds.

    Returns:
        JSON values: ``rates``; ``heads``, for each learned head ``trained``, the accuracy of its
        networks (see :func:`recipes.comparison.summary.interval`), and ``ways``, for each way the
        ``swapped`` accuracy, ``swap``, what that is less the trained network's, and ``tuned``, for
        each rate in order the ``accuracy`` after the epoch, ``difference``, what that is less the
        trained network's, and ``to_kept``, less that of the learned head trained on as much (all
        paired by seed); and ``runs``.
    """
    rates = list(dict.fromkeys(run.rate for run in runs))

    def of(head: str, way: str, rate: float) -> list[Converted]:
        return [r for r in runs if (r.head, r.way, r.rate) == (head, way, rate)]

    def way_of(head: str, way: str) -> Summary:
        first = of(head, way, rates[0])
        return {
            "swapped": interval([r.swapped for r in first]),
            "swap": interval([r.swapped - r.trained for r in first]),
            "tuned": [_tuned(of(head, way, rate), of(head, KEPT, rate)) for rate in rates],
        }

    ways = list(dict.fromkeys(run.way for run in runs))
    return {
        "rates": rates,
        "heads": {
            head: {
                "trained": interval([r.trained for r in of(head, KEPT, rates[0])]),
                "ways": {way: way_of(head, way) for way in ways},
            }
            for head in dict.fromkeys(run.head for run in runs)
        },
        "runs": [asdict(run) for run in runs],
    }


def _tuned(runs: Sequence[Converted], kept: Sequence[Converted]) -> Summary:
    return {
        "accuracy": interval([r.tuned for r in runs]),
        "difference": interval([r.tuned - r.trained for r in runs]),
        "to_kept": interval([r.tuned - k.tuned for r, k in zip(runs, kept, strict=True)]),
    }
