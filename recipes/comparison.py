"""What several runs say together: means over seeds, intervals, paired differences, savings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from scipy import stats

from recipes.config import Settings
from recipes.result import RunResult

Summary = dict[str, Any]
"""JSON values."""


def interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean and 95% interval of the mean by Student's t; half is None for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "half": None, "n": 1}
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(variance / n)
    return {"mean": mean, "half": half, "n": n}


def compare(
    runs: Sequence[RunResult], baseline: str, head_costs: dict[str, dict[str, float]]
) -> Summary:
    """Put finished runs of several heads and seeds beside each other.

    Args:
        runs: one for each head and seed, every head with the same seeds.
        baseline: the head that the others are compared with, seed by seed.
        head_costs: seconds a step of each head, see :func:`recipes.head_cost.head_cost`.

    Returns:
        JSON values: ``heads`` (a record each, in the order of the runs), ``baseline``,
        ``tasks``, ``seeds``, ``settings`` and ``provenance``.
    """
    by_head: dict[str, list[RunResult]] = {}
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        by_head.setdefault(run.config["head"], []).append(run)
    order = list(dict.fromkeys(run.config["head"] for run in runs))
    reference = by_head[baseline]
    return {
        "heads": {
            head: _summarise(by_head[head], reference) | {"cost": head_costs[head]}
            for head in order
        },
        "baseline": baseline,
        "tasks": reference[0].tasks,
        "seeds": [run.config["seed"] for run in reference],
        "settings": {
            name: value
            for name, value in reference[0].config.items()
            if name in {field.name for field in fields(Settings)} - {"resume"}
        },
        "provenance": reference[0].provenance,
    }


def mean_accuracy(row: dict[str, Any], split: str = "test") -> float:
    """Accuracy averaged over tasks, of one record of a history."""
    accuracies = row[split]["accuracy"].values()
    return math.fsum(accuracies) / len(accuracies)


def _summarise(runs: Sequence[RunResult], reference: Sequence[RunResult]) -> Summary:
    last = [run.history[-1] for run in runs]
    tasks = list(last[0]["test"]["accuracy"])
    finals = [mean_accuracy(row) for row in last]
    targets = [mean_accuracy(run.history[-1]) for run in reference]
    return {
        "accuracy": interval(finals),
        "accuracy_by_task": {
            task: interval([row["test"]["accuracy"][task] for row in last]) for task in tasks
        },
        "train_accuracy": interval([mean_accuracy(row, "train") for row in last]),
        "difference": interval([a - b for a, b in zip(finals, targets, strict=True)]),
        "to_target": _time_to_target(runs, targets),
        "train_seconds": interval([row["train_seconds"] for row in last]),
        "counts": runs[0].counts,
        "epochs": [row["epoch"] for row in runs[0].history],
        "curves": _curves(runs),
        "gram": runs[0].gram,
    }


def _time_to_target(runs: Sequence[RunResult], targets: Sequence[float]) -> Summary:
    """First epoch at which each run is as accurate as the baseline's run of its seed ended."""
    epochs, seconds = [], []
    for run, target in zip(runs, targets, strict=True):
        for row in run.history:
            if mean_accuracy(row) >= target:
                epochs.append(row["epoch"])
                seconds.append(row["train_seconds"])
                break
    reached = {"reached": len(epochs), "of": len(runs)}
    if not epochs:
        return reached
    return reached | {"epochs": interval(epochs), "seconds": interval(seconds)}


def _curves(runs: Sequence[RunResult]) -> dict[str, dict[str, list[float]]]:
    """Mean, lowest and highest over seeds at each epoch: test accuracy, and each measure."""
    series = {"test_accuracy": [[mean_accuracy(row) for row in run.history] for run in runs]}
    for name in runs[0].history[0]["collapse"]:
        series[name] = [[row["collapse"][name] for row in run.history] for run in runs]
    return {
        name: {
            "mean": [math.fsum(column) / len(column) for column in zip(*rows, strict=True)],
            "low": [min(column) for column in zip(*rows, strict=True)],
            "high": [max(column) for column in zip(*rows, strict=True)],
        }
        for name, rows in series.items()
    }
