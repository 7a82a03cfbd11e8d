"""Claims: a statement, the runs that test it, and the rule that judges them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from recipes.claims.record import Evidence, Record, points_ahead
from recipes.claims.request import Size
from recipes.data.images import ImageData
from recipes.intervals import Interval, interval, seeds_needed
from recipes.pages.page import Figure
from recipes.pages.tables import Line
from recipes.provenance import Provenance
from recipes.training.engine import train
from recipes.training.network import Network
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Verdict = Literal["met", "not met", "undecided"]
"""Of a criterion: its interval is right of its threshold, wrong of it, or has it within."""

Relation = Literal["at most", "at least"]
"""Of a mean to its threshold."""

Settings = Mapping[str, Any]
"""Fields of :class:`recipes.training.settings.RunConfig`."""


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


BATCH_NORM: dict[str, Any] = {"feature_norm": "batch"}
"""Fixed heads, and learned-norm, behind batch normalisation: features collapse sooner there."""

SMALL_CNN: dict[str, Any] = {
    "backbone": "cnn",
    "width": 16,
    "features": 60,
    "batch_size": 200,
    "lr": 1e-2,
    "weight_decay": 1.0,
}
"""A CNN that ends in a linear projection, for runs of a minute on two CPU cores."""


@dataclass(frozen=True)
class Plan:
    """The runs of a claim at one size.

    Attributes:
        preset: in ``recipes.training.presets.PRESETS``; settings start from it.
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
        interval: mean of the values and its 95% interval.
        verdict: by the interval: all of it on one side of the threshold, or on both. A single seed
            has none and decides nothing. A NaN is a failure.
        seeds_needed: seeds whose interval, at the spread and mean seen, would lie on one side; None
            where it does already, where one seed shows no spread, and beyond 10,000.
    """

    statement: str
    values: list[float]
    relation: Relation
    threshold: float
    why: str
    interval: Interval = field(init=False)
    verdict: Verdict = field(init=False)
    seeds_needed: int | None = field(init=False)

    def __post_init__(self) -> None:
        found = interval(self.values)
        verdict = self._verdict(found)
        needed = None
        if verdict == "undecided" and found.n > 1:
            gap = abs(fmean(self.values) - self.threshold)
            needed = seeds_needed(gap, stdev(self.values), found.n)
        for name, value in (("interval", found), ("verdict", verdict), ("seeds_needed", needed)):
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def _verdict(self, found: Interval) -> Verdict:
        if not all(map(math.isfinite, self.values)):
            return "not met"
        above = found.mean - self.threshold
        if self.relation == "at most":
            above = -above
        if found.half is None or abs(above) < found.half:
            return "undecided"
        return "met" if above >= 0 else "not met"


Overall = Literal["holds", "does not hold", "undecided"]


def overall(verdicts: Iterable[str]) -> Overall:
    """The verdict on a claim, by those on its criteria."""
    found = set(verdicts)
    if "not met" in found:
        return "does not hold"
    return "undecided" if "undecided" in found else "holds"


@dataclass(frozen=True)
class Judged:
    """The evidence for a claim, and what its rule makes of it."""

    claim: str
    size: Size  # of the runs
    evidence: dict[str, list[Record]]  # of the runs
    criteria: list[Criterion]  # by the claim's rule
    verdict: Overall = field(init=False)  # by the criteria
    provenance: Provenance  # of the first run

    def __post_init__(self) -> None:
        verdict = overall(criterion.verdict for criterion in self.criteria)
        object.__setattr__(self, "verdict", verdict)  # the dataclass is frozen


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
        examine: more numbers of a trained network, a dataclass kept as ``extra``.
        lines: more rows of the table: a title, and a cell for each variant.
        figures: more pictures.
    """

    name: str
    title: str
    says: str
    plans: Mapping[Size, Plan]
    judge: Callable[[Evidence], Iterable[Criterion]]
    measures: tuple[str, ...]
    examine: Callable[[Network, ImageData, RunResult], DataclassInstance] | None = None
    lines: Callable[[Evidence], Iterable[Line]] = lambda _: []
    figures: Callable[[Evidence], list[Figure]] = lambda _: []


def accuracy_ahead(
    evidence: Evidence,
    pair: tuple[str, str],
    relation: Relation,
    threshold: float,
    why: str,
) -> Criterion:
    """A criterion of the test accuracy of the pair's first variant less that of the second."""
    name, other = pair
    ahead = points_ahead(evidence[name], evidence[other])
    statement = f"test accuracy, {name} less {other}, in points"
    return Criterion(statement, ahead, relation, threshold, why)
