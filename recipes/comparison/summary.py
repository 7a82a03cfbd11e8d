"""Summary of runs of several heads: means over seeds, intervals, paired differences, savings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from recipes.comparison.curves import Curves, curves_of
from recipes.comparison.head_cost import HeadCost
from recipes.comparison.reach import Level, Reach, levels, test_error, time_to
from recipes.comparison.tuning import Tuned
from recipes.intervals import Interval, interval
from recipes.provenance import Provenance
from recipes.training.result import Counts, RunResult
from recipes.training.settings import Settings

PLAIN = "plain nn.Linear, as it comes"
"""The name of the learned head with untuned settings, among tuned heads."""


@dataclass(frozen=True, kw_only=True)
class HeadSummary(Curves):
    """The runs of one head.

    Attributes:
        accuracy: on the test images, mean over tasks.
        accuracy_by_task: on the test images.
        train_accuracy: mean over tasks.
        difference: test accuracy less that of the baseline, paired by seed.
        differences: these, a seed each; none in results written without them.
        to_target: time to the test accuracy of the baseline's run with the same seed.
        train_seconds: of whole trainings.
        counts: sizes of head, model, checkpoint and optimiser state.
        gram: cosines between the class vectors of the first run, where they are not too many.
        cost: seconds a step of head and loss.
    """

    accuracy: Interval
    accuracy_by_task: dict[str, Interval]
    train_accuracy: Interval
    difference: Interval
    differences: list[float] = field(default_factory=list)
    to_target: Reach
    train_seconds: Interval
    counts: Counts
    gram: list[list[float]] | None
    cost: HeadCost


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several heads beside each other, each with the same seeds; ``comparison.json``.

    Attributes:
        heads: in the order of the runs.
        baseline: the head that the others are compared with, seed by seed.
        reach: levels by curve, see :func:`recipes.comparison.reach.levels`.
        tasks: number of classes by task name.
        seeds: of each head.
        settings: those that all runs share.
        tuning: what tuning tried and chose, by head; nothing without it.
        provenance: of the first run.
    """

    heads: dict[str, HeadSummary]
    baseline: str
    reach: dict[str, list[Level]]
    tasks: dict[str, int]
    seeds: list[int]
    settings: dict[str, Any]
    tuning: dict[str, Tuned] = field(default_factory=dict)
    provenance: Provenance


def compare(
    runs: Sequence[RunResult],
    baseline: str,
    head_costs: Mapping[str, HeadCost],
    *,
    plain: Sequence[RunResult] = (),
    tuned: Mapping[str, Tuned] | None = None,
) -> Comparison:
    """Put finished runs of several heads and seeds beside each other.

    Args:
        runs: one for each head and seed, every head with the same seeds.
        baseline: the head that the others are compared with, seed by seed.
        head_costs: of each head.
        plain: runs of nn.Linear with untuned settings, which go by the name ``PLAIN``.
        tuned: what tuning tried and chose for each head, if it did.
    """
    by_head: dict[str, list[RunResult]] = {run.config["head"]: [] for run in runs}
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        by_head[run.config["head"]].append(run)
    if plain:
        by_head[PLAIN] = sorted(plain, key=lambda run: run.config["seed"])
    reference = by_head[baseline]
    tuning = dict(tuned or {})
    apart = {name for found in tuning.values() for name in found.settings}
    shared = shared_settings(reference[0]).items()
    return Comparison(
        heads={head: _summary(own, reference, head_costs[head]) for head, own in by_head.items()},
        baseline=baseline,
        reach=levels(by_head),
        tasks=reference[0].tasks,
        seeds=[run.config["seed"] for run in reference],
        settings={name: value for name, value in shared if name not in apart},
        tuning=tuning,
        provenance=reference[0].provenance,
    )


def shared_settings(run: RunResult) -> dict[str, Any]:
    """What a run has in common with those of other heads and seeds."""
    shared = {field.name for field in fields(Settings)} - {"resume"}
    return {name: value for name, value in run.config.items() if name in shared}


def _summary(
    runs: Sequence[RunResult], reference: Sequence[RunResult], cost: HeadCost
) -> HeadSummary:
    last = [run.history[-1] for run in runs]
    targets = [run.history[-1] for run in reference]
    pairs = zip(last, targets, strict=True)
    differences = [own.test.mean_accuracy - base.test.mean_accuracy for own, base in pairs]
    return HeadSummary(
        **vars(curves_of([run.history for run in runs])),
        accuracy=interval([row.test.mean_accuracy for row in last]),
        accuracy_by_task={
            task: interval([row.test.accuracy[task] for row in last])
            for task in last[0].test.accuracy
        },
        train_accuracy=interval([row.train.mean_accuracy for row in last]),
        difference=interval(differences),
        differences=differences,
        to_target=time_to(runs, test_error, list(map(test_error, targets))),
        train_seconds=interval([row.train_seconds for row in last]),
        counts=runs[0].counts,
        gram=runs[0].gram,
        cost=cost,
    )
