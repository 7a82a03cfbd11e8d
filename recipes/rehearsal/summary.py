"""Runs in sessions side by side: means over seeds, and what is ahead of the first head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.intervals import Interval, interval
from recipes.provenance import Provenance
from recipes.training.history import Epoch

MEASURES = {
    "shallow": "shallow forgetting",
    "deep": "deep forgetting",
    "inflation": "inflation of buffer means",
    "effective_rank_ratio": "effective rank, buffer over all",
    "old_mean_share": "share of earlier means in S",
}
"""Titles of the measures after the last session, by their names in a history."""

Histories = Sequence[Sequence[Epoch]]
"""Of the runs of one head and buffer, a seed each, seeds in the same order for all."""


@dataclass(frozen=True)
class Row:
    """One head with one size of the buffer, after the last session.

    Attributes:
        head: its name.
        buffer: share of the images that is kept.
        accuracy: test accuracy, mean over the sessions' classes.
        ahead: the same less that of the first head with this buffer, paired by seed; None for it.
        measures: by name; None where no seed has one.
    """

    head: str
    buffer: float
    accuracy: Interval
    ahead: Interval | None
    measures: dict[str, Interval | None]


@dataclass(frozen=True)
class Summary:
    """The runs of a data set.

    Attributes:
        data: its name.
        seeds: of the runs.
        rows: one for each head and buffer.
        settings: that all runs share.
        provenance: of the first run.
    """

    data: str
    seeds: list[int]
    rows: list[Row]
    settings: dict[str, Any]
    provenance: Provenance


def summarise_rows(runs: Mapping[tuple[str, float], Histories]) -> list[Row]:
    """A row for each head and buffer.

    Args:
        runs: histories by head and buffer; heads are compared with the first of each buffer.
    """
    first: dict[float, Histories] = {}
    for (_, buffer), histories in runs.items():
        first.setdefault(buffer, histories)
    return [
        _row(head, buffer, histories, first[buffer]) for (head, buffer), histories in runs.items()
    ]


def _row(head: str, buffer: float, histories: Histories, first: Histories) -> Row:
    last = [history[-1] for history in histories]
    accuracies = [row.test.mean_accuracy for row in last]
    others = [history[-1].test.mean_accuracy for history in first]
    ahead = [mine - other for mine, other in zip(accuracies, others, strict=True)]
    return Row(
        head=head,
        buffer=buffer,
        accuracy=interval(accuracies),
        ahead=None if histories is first else interval(ahead),
        measures={name: _known([row.collapse.get(name) for row in last]) for name in MEASURES},
    )


def _known(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return interval(known) if known else None
