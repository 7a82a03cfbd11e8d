"""What a claim is: what a paper says, the runs that test it, and the rule that judges them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from recipes.comparison.summary import interval, mean_accuracy
from recipes.data import ImageData
from recipes.pages.page import Figure
from recipes.storage import json_values
from recipes.training.engine import train
from recipes.training.network import Network
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

Size = Literal["reduced", "full"]
"""Minutes on two CPU cores; or what the papers train, for which a GPU is needed."""

Settings = Mapping[str, Any]
"""Fields of :class:`recipes.training.settings.RunConfig`."""

Record = dict[str, Any]
"""JSON values of one finished run: ``seed``, ``history``, ``tasks``, ``gram``, ``counts``,
``settings``, and ``extra``, what the claim's own examination found."""

Evidence = Mapping[str, Sequence[Record]]
"""The records of each variant, one a seed, seeds in the same order for all."""


@dataclass(frozen=True)
class Variant:
    """One of the things that a claim compares.

    Attributes:
        settings: what sets it apart from the others.
        run: trains it, as :func:`recipes.training.engine.train` does.
    """

    settings: Settings = field(default_factory=dict)
    run: Callable[[RunConfig], RunResult] = train


@dataclass(frozen=True)
class Plan:
    """The runs of a claim at one size.

    Attributes:
        preset: in ``recipes.training.settings.PRESETS``; settings start from it.
        base: what all runs set otherwise.
        variants: by the names that tables and plots give them.
        seeds: each variant is trained with each of them.
    """

    preset: str
    base: Settings
    variants: Mapping[str, Variant]
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Criterion:
    """Something that has to be so for the claim to hold, and what was measured.

    Attributes:
        statement: in words.
        values: the measured number, one a seed.
        relation: how their mean has to stand to the threshold.
        threshold: chosen before the runs.
        why: where the threshold comes from.
    """

    statement: str
    values: Sequence[float]
    relation: Literal["at most", "at least"]
    threshold: float
    why: str

    @property
    def holds(self) -> bool:
        """Whether the mean over seeds is on the right side; a NaN never is."""
        mean = math.fsum(self.values) / len(self.values)
        return mean <= self.threshold if self.relation == "at most" else mean >= self.threshold

    def to_json(self) -> dict[str, Any]:
        """All of it, with mean and interval; None for NaN."""
        known = [value if math.isfinite(value) else None for value in self.values]
        summary = {"values": known, "holds": self.holds, "interval": interval(self.values)}
        return asdict(self) | json_values(summary)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper, and how it is tested.

    Attributes:
        name: on the command line.
        title: of the page.
        says: what the paper says, with its source.
        plans: the runs, by size.
        judge: criteria of the evidence; the claim holds if all do.
        measures: rows of the table and plots of the page: names in a history's ``collapse``,
            see :data:`recipes.comparison.report.MEASURES`.
        examine: more numbers (JSON values) of a trained network, kept as ``extra``.
        lines: more rows of the table: a title, and a cell for each variant.
        figures: more pictures.
    """

    name: str
    title: str
    says: str
    plans: Mapping[Size, Plan]
    judge: Callable[[Evidence], list[Criterion]]
    measures: tuple[str, ...]
    examine: Callable[[Network, ImageData, RunResult], dict[str, Any]] | None = None
    lines: Callable[[Evidence], list[tuple[str, ...]]] = lambda _: []
    figures: Callable[[Evidence], list[Figure]] = lambda _: []


def final(records: Sequence[Record], measure: str) -> list[float]:
    """A collapse measure at the end of each run."""
    return [_number(record["history"][-1]["collapse"][measure]) for record in records]


def fall(records: Sequence[Record], measure: str) -> list[float]:
    """What is left of a collapse measure at the end, as a share of what it was before training."""
    starts = [_number(record["history"][0]["collapse"][measure]) for record in records]
    return [end / start for end, start in zip(final(records, measure), starts, strict=True)]


def last_accuracy(records: Sequence[Record], split: str = "test") -> list[float]:
    """Accuracy on test images, or on ``split="train"``, at the end of each run, mean over tasks."""
    return [mean_accuracy(record["history"][-1], split) for record in records]


def points_ahead(records: Sequence[Record], others: Sequence[Record]) -> list[float]:
    """Test accuracy less that of the other variant with the same seed, in percentage points."""
    pairs = zip(last_accuracy(records), last_accuracy(others), strict=True)
    return [100 * (mine - theirs) for mine, theirs in pairs]


def accuracy_ahead(
    evidence: Evidence,
    pair: tuple[str, str],
    relation: Literal["at most", "at least"],
    threshold: float,
    why: str,
) -> Criterion:
    """A criterion of the test accuracy of the pair's first variant less that of the second."""
    name, other = pair
    ahead = points_ahead(evidence[name], evidence[other])
    statement = f"test accuracy, {name} less {other}, in points"
    return Criterion(statement, ahead, relation, threshold, why)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
