"""Records of the runs of a claim, and numbers of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from recipes.comparison.tuning import Trial, best_trial, choice_in_words
from recipes.intervals import Interval, interval
from recipes.pages.tables import Line, measured
from recipes.records import from_json
from recipes.training.history import Epoch
from recipes.training.result import Counts

X = TypeVar("X")


@dataclass(frozen=True)
class Record:
    """One finished run."""

    seed: int  # of the run
    history: list[Epoch]  # as in RunResult, like the next three
    tasks: dict[str, int]  # number of classes by task name
    gram: list[list[float]] | None  # cosines between the final class vectors
    counts: Counts  # sizes of head, model, checkpoint and optimiser state
    settings: dict[str, Any]  # by the names that they had then
    extra: Any = None  # JSON values of the claim's own examination, see extras()
    tuned: tuple[Trial, ...] = ()  # the trials before it, if there were any


Evidence = Mapping[str, Sequence[Record]]
"""The records of each variant, one a seed, seeds in the same order for all."""


def extras(records: Sequence[Record], kind: type[X]) -> list[X]:
    """What the claim's own examination found of each run.

    Args:
        records: of the runs.
        kind: the dataclass that the examination returns.
    """
    return [from_json(kind, record.extra) for record in records]


def examined(records: Sequence[Record], kind: type[Any], name: str) -> list[float]:
    """A number that the claim's own examination found, of each run."""
    return [getattr(found, name) for found in extras(records, kind)]


def initial(records: Sequence[Record], measure: str) -> list[float]:
    """A collapse measure before training of each run."""
    return [number(record.history[0].collapse[measure]) for record in records]


def final(records: Sequence[Record], measure: str) -> list[float]:
    """A collapse measure at the end of each run."""
    return [number(record.history[-1].collapse[measure]) for record in records]


def fall(records: Sequence[Record], measure: str) -> list[float]:
    """A collapse measure at the end, as a share of its value before training."""
    return quotients(final(records, measure), initial(records, measure))


def differences(mine: Iterable[float], others: Iterable[float]) -> list[float]:
    """The first numbers less the second, seed by seed."""
    return [a - b for a, b in zip(mine, others, strict=True)]


def quotients(mine: Iterable[float], others: Iterable[float]) -> list[float]:
    """The first numbers over the second, seed by seed."""
    return [a / b for a, b in zip(mine, others, strict=True)]


def last_accuracy(
    records: Sequence[Record], split: Literal["train", "test"] = "test"
) -> list[float]:
    """Accuracy at the end of each run, mean over tasks."""
    ends = [record.history[-1] for record in records]
    return [(end.test if split == "test" else end.train).mean_accuracy for end in ends]


def points_ahead(records: Sequence[Record], others: Sequence[Record]) -> list[float]:
    """Test accuracy less that of the other variant with the same seed, in percentage points."""
    return [100 * d for d in differences(last_accuracy(records), last_accuracy(others))]


def row(
    title: str,
    evidence: Evidence,
    numbers: Callable[[Sequence[Record]], list[float]],
    in_words: Callable[[Interval], str] = measured,
) -> Line:
    """A row of the table: the mean of a number of each run, by variant, and its interval."""
    return (title, *(in_words(interval(numbers(records))) for records in evidence.values()))


def chosen_settings(evidence: Evidence) -> Line:
    """A line of tables: the settings of each variant that its tuning found best."""
    searches = [records[0].tuned for records in evidence.values()]
    return (
        "chosen settings",
        *(choice_in_words(best_trial(t).settings) if t else "as they come" for t in searches),
    )


def number(value: float | None) -> float:
    """A number of a record; NaN where it was not defined."""
    return math.nan if value is None else value
