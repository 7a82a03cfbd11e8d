"""What several runs say together: means over seeds, intervals, paired differences, savings."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from statistics import fmean
from typing import TYPE_CHECKING, Any

from scipy import stats

from recipes.training.result import RunResult
from recipes.training.settings import Settings

if TYPE_CHECKING:
    from recipes.comparison.tuning import Tuned

Summary = dict[str, Any]
"""JSON values."""

Row = dict[str, Any]
"""A record of a history, see :func:`recipes.training.engine.train`."""

Curve = Callable[[Row], float | None]
"""A number of each record; None where it is not defined."""

PLAIN = "plain nn.Linear, as it comes"
"""The name of the learned head with untuned settings, among tuned heads."""

LADDER = [float(f"{digit}e{power}") for power in range(0, -9, -1) for digit in (5, 2, 1)]
"""5, 2, 1, 0.5, 0.2, 0.1, ...: the levels that a curve may be asked to reach."""

LEVELS = 4
"""How many of them are looked at."""


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean and 95% interval of the mean by Student's t; half is None for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "half": None, "n": 1}
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return {"mean": mean, "half": half_width(spread, n), "n": n}


def half_width(spread: float, n: int) -> float:
    """Half of the 95% interval of a mean of n values with this standard deviation."""
    return float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)


def seeds_needed(gap: float, spread: float, n: int) -> int | None:
    """The least number of seeds, above n, whose interval would leave a gap out.

    Args:
        gap: distance of the mean from what it is held against.
        spread: standard deviation over seeds.
        n: seeds so far.

    Returns:
        The number, at the mean and spread seen; None beyond 10,000.
    """
    counts = range(n + 1, 10_001)
    decided = bisect_left(counts, True, key=lambda count: half_width(spread, count) <= gap)
    return counts[decided] if decided < len(counts) else None


def compare(
    runs: Sequence[RunResult],
    baseline: str,
    head_costs: dict[str, dict[str, float]],
    *,
    plain: Sequence[RunResult] = (),
    tuned: Mapping[str, Tuned] | None = None,
) -> Summary:
    """Put finished runs of several heads and seeds beside each other.

    Args:
        runs: one for each head and seed, every head with the same seeds.
        baseline: the head that the others are compared with, seed by seed.
        head_costs: seconds a step of each head, see :func:`recipes.comparison.head_cost.head_cost`.
        plain: runs of nn.Linear with untuned settings, which go by the name ``PLAIN``.
        tuned: what tuning tried and chose for each head, if it did.

    Returns:
        JSON values: ``heads`` (a record each, in the order of the runs), ``baseline``,
        ``reach`` (see :func:`_reach`), ``tasks``, ``seeds``, ``settings`` that all runs share,
        ``tuning`` (``trials`` and the best one's ``settings`` by head) and ``provenance``.
    """
    by_head: dict[str, list[RunResult]] = {run.config["head"]: [] for run in runs}
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        by_head[run.config["head"]].append(run)
    if plain:
        by_head[PLAIN] = sorted(plain, key=lambda run: run.config["seed"])
    reference = by_head[baseline]
    tuning = {head: asdict(found) for head, found in (tuned or {}).items()}
    apart = {name for found in tuning.values() for name in found["settings"]}
    shared = shared_settings(reference[0]).items()
    return {
        "heads": {
            head: _summarise(own, reference) | {"cost": head_costs[head]}
            for head, own in by_head.items()
        },
        "baseline": baseline,
        "reach": _reach(by_head),
        "tasks": reference[0].tasks,
        "seeds": [run.config["seed"] for run in reference],
        "settings": {name: value for name, value in shared if name not in apart},
        "tuning": tuning,
        "provenance": reference[0].provenance,
    }


def shared_settings(run: RunResult) -> Summary:
    """What a run has in common with those of other heads and seeds."""
    shared = {field.name for field in fields(Settings)} - {"resume"}
    return {name: value for name, value in run.config.items() if name in shared}


def mean_accuracy(row: Row, split: str = "test") -> float:
    """Accuracy averaged over tasks, of one record of a history."""
    accuracies = row[split]["accuracy"].values()
    return math.fsum(accuracies) / len(accuracies)


def test_error(row: Row) -> float:
    """Share of wrong test decisions, averaged over tasks."""
    return round(1 - mean_accuracy(row), 12)  # so that an accuracy of 99% is an error of 0.01


def _collapse_measure(name: str) -> Curve:
    return lambda row: row["collapse"].get(name)


FALLING: dict[str, Curve] = {
    "test_error": test_error,
    "s_nc1_ratio": _collapse_measure("s_nc1_ratio"),
    "s_nc4": _collapse_measure("s_nc4"),
}
"""What falls with training whichever the head, and so is asked when it reached a level."""


def _reach(by_head: Mapping[str, Sequence[RunResult]]) -> Summary:
    """When each falling curve came down to the lowest levels that matter, for each head.

    These are the last ``LEVELS`` of the ``LADDER`` that at least one head reached with every seed.
    """
    found = {}
    for name, curve in FALLING.items():
        levels = [
            level
            for level in LADDER
            if any(all(_first(run, curve, level) for run in runs) for runs in by_head.values())
        ]
        if levels:
            found[name] = [
                {"level": level}
                | {
                    "heads": {
                        head: _time_to(runs, curve, [level] * len(runs))
                        for head, runs in by_head.items()
                    }
                }
                for level in levels[-LEVELS:]
            ]
    return found


def _summarise(runs: Sequence[RunResult], reference: Sequence[RunResult]) -> Summary:
    last = [run.history[-1] for run in runs]
    tasks = list(last[0]["test"]["accuracy"])
    finals = [mean_accuracy(row) for row in last]
    targets = [mean_accuracy(run.history[-1]) for run in reference]
    differences = [a - b for a, b in zip(finals, targets, strict=True)]
    return {
        "accuracy": interval(finals),
        "accuracy_by_task": {
            task: interval([row["test"]["accuracy"][task] for row in last]) for task in tasks
        },
        "train_accuracy": interval([mean_accuracy(row, "train") for row in last]),
        "difference": interval(differences),
        "differences": differences,
        "to_target": _time_to(runs, test_error, [test_error(run.history[-1]) for run in reference]),
        "train_seconds": interval([row["train_seconds"] for row in last]),
        "counts": runs[0].counts,
        "epochs": [row["epoch"] for row in runs[0].history],
        "curves": _curves(runs),
        "gram": runs[0].gram,
    }


def _time_to(runs: Sequence[RunResult], curve: Curve, levels: Sequence[float]) -> Summary:
    """First epoch at which the curve of each run is not above its level."""
    found = [_first(run, curve, level) for run, level in zip(runs, levels, strict=True)]
    rows = [row for row in found if row is not None]
    reached = {"reached": len(rows), "of": len(runs)}
    if not rows:
        return reached
    return reached | {
        "epochs": interval([row["epoch"] for row in rows]),
        "seconds": interval([row["train_seconds"] for row in rows]),
    }


def _first(run: RunResult, curve: Curve, level: float) -> Row | None:
    values = ((row, curve(row)) for row in run.history)
    return next((row for row, value in values if value is not None and value <= level), None)


def _curves(runs: Sequence[RunResult]) -> dict[str, dict[str, list[float | None]]]:
    """Mean, lowest and highest over seeds at each epoch: test accuracy, and each measure.

    None where the measure of any seed is.
    """
    series = {"test_accuracy": [[mean_accuracy(row) for row in run.history] for run in runs]}
    for name in runs[0].history[0]["collapse"]:
        series[name] = [[row["collapse"][name] for row in run.history] for run in runs]
    return {
        name: {
            key: [
                None if None in column else statistic(column) for column in zip(*rows, strict=True)
            ]
            for key, statistic in (("mean", fmean), ("low", min), ("high", max))
        }
        for name, rows in series.items()
    }
