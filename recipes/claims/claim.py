"""Claims: a statement, the runs that test it, and the rule that judges them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

from recipes.comparison.summary import interval, mean_accuracy, seeds_needed
from recipes.data.images import ImageData
from recipes.pages.page import Figure
from recipes.storage import json_values
from recipes.training.engine import train
from recipes.training.network import Network
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

Size = Literal["reduced", "full"]
"""Minutes on two CPU cores; or what the papers train, for which a GPU is needed."""

Verdict = Literal["met", "not met", "undecided"]
"""Of a criterion: its interval is right of its threshold, wrong of it, or has it within."""

Settings = Mapping[str, Any]
"""Fields of :class:`recipes.training.settings.RunConfig`."""

Record = dict[str, Any]
"""JSON values of one finished run: ``seed``, ``history``, ``tasks``, ``gram``, ``counts``,
``settings``, ``extra``, what the claim's own examination found, and ``tuned``, the trials before
it if there were any."""

Evidence = Mapping[str, Sequence[Record]]
"""The records of each variant, one a seed, seeds in the same order for all."""


@dataclass(frozen=True)
class Variant:
    """One of the things that a claim compares.

    Attributes:
        settings: what sets it apart from the others.
        run: trains it, as :func:`recipes.training.engine.train` does.
        tuned: whether it takes part in the tuning of a plan that has trials.
    """

    settings: Settings = field(default_factory=dict)
    run: Callable[[RunConfig], RunResult] = train
    tuned: bool = True


BATCH_NORM: Settings = {"feature_norm": "batch"}
"""Fixed heads, and learned-norm, behind batch normalisation: features collapse sooner there."""


@dataclass(frozen=True)
class Plan:
    """The runs of a claim at one size.

    Attributes:
        preset: in ``recipes.training.settings.PRESETS``; settings start from it.
        base: what all runs set otherwise.
        variants: by the names that tables and plots give them.
        seeds: each variant is trained with each of them.
        trials: for each variant, of equal tuning before that, see
            :func:`recipes.comparison.tuning.tune`; 0 trains the settings as they are.
    """

    preset: str
    base: Settings
    variants: Mapping[str, Variant]
    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 0


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
    def verdict(self) -> Verdict:
        """Verdict by the 95% interval of the mean over seeds: all on one side, or on both.

        A single seed has no interval and decides nothing. A NaN is a failure.
        """
        if not all(map(math.isfinite, self.values)):
            return "not met"
        found = interval(self.values)
        mean, half = found["mean"], found["half"]
        assert mean is not None  # noqa: S101 (there is at least one value)
        above = mean - self.threshold if self.relation == "at least" else self.threshold - mean
        if half is None or abs(above) < half:
            return "undecided"
        return "met" if above >= 0 else "not met"

    @property
    def seeds_needed(self) -> int | None:
        """Seeds whose interval, at the spread and mean seen, would lie on one side.

        None where it does already, where one seed shows no spread, and beyond 10,000.
        """
        if self.verdict != "undecided" or len(self.values) < 2:
            return None
        gap, spread = abs(fmean(self.values) - self.threshold), stdev(self.values)
        return seeds_needed(gap, spread, len(self.values))

    def to_json(self) -> dict[str, Any]:
        """All of it, with mean and interval; None for NaN."""
        known = [value if math.isfinite(value) else None for value in self.values]
        summary: dict[str, Any] = {"values": known, "interval": interval(self.values)}
        summary |= {"verdict": self.verdict, "seeds_needed": self.seeds_needed}
        return asdict(self) | json_values(summary)


def overall(verdicts: Iterable[str]) -> Literal["holds", "does not hold", "undecided"]:
    """The verdict on a claim, by those on its criteria."""
    found = set(verdicts)
    if "not met" in found:
        return "does not hold"
    return "undecided" if "undecided" in found else "holds"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper, and how it is tested.

    Attributes:
        name: on the command line.
        title: of the page.
        says: what the paper says, with its source.
        plans: the runs, by size.
        judge: criteria of the evidence; the claim holds if all are met, and does not if one is
            not.
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
    """A collapse measure at the end, as a share of its value before training."""
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
