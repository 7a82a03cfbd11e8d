"""A judged claim as a table in the terminal, and as a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from recipes.claims.claim import Claim, Criterion, Judged
from recipes.claims.record import Evidence, Record, final, last_accuracy
from recipes.comparison.curves import curves_of
from recipes.comparison.figures import collapse_curves
from recipes.comparison.report import MEASURES
from recipes.intervals import interval
from recipes.pages.page import origin, settings_in_words, write_page
from recipes.pages.tables import Line, measured

MANY = 8
"""Variants that a page has room for side by side; a table of more has a row for each instead."""

_PARTS: tuple[Literal["test", "train"], ...] = ("test", "train")


def verdict(judged: Judged) -> str:
    """One sentence, by rule."""
    where = "at full size" if judged.size == "full" else "at reduced size; not run at full size"
    counts = Counter(criterion.verdict for criterion in judged.criteria)
    criteria = f"{counts['met']} of {len(judged.criteria)} criteria are met"
    if counts["undecided"]:
        criteria += f", {counts['undecided']} undecided"
    return f"{judged.verdict.capitalize()} {where}: {criteria} (n = {_seeds(judged)} seeds)."


def overview(results: Sequence[Judged]) -> list[Line]:
    """A line for each claim."""
    return [
        ("claim", "verdict", "met", "not met", "undecided", "seeds", "runs", "minutes of training"),
        *(
            (
                judged.claim,
                judged.verdict,
                *(
                    str(sum(criterion.verdict == value for criterion in judged.criteria))
                    for value in ("met", "not met", "undecided")
                ),
                str(_seeds(judged)),
                str(len(_runs(judged))),
                _minutes(sum(r.history[-1].train_seconds for r in _runs(judged))),
            )
            for judged in results
        ),
    ]


def criteria_table(judged: Judged) -> list[Line]:
    """A line for each criterion."""
    return [
        ("criterion", "measured", "needed", "verdict"),
        *(
            (
                criterion.statement,
                measured(criterion.interval),
                f"{criterion.relation} {criterion.threshold:g}",
                _decision(criterion),
            )
            for criterion in judged.criteria
        ),
    ]


def numbers_table(claim: Claim, judged: Judged) -> list[Line]:
    """Accuracies and measures of every variant."""
    evidence = judged.evidence
    titles = {name: MEASURES[name][0] for name in claim.measures}
    classify = all(record.tasks for record in _runs(judged))
    table: list[Line] = [
        ("", *evidence),
        *(
            (f"{part} accuracy, %", *(_percent(records, part) for records in evidence.values()))
            for part in (_PARTS if classify else ())
        ),
        *(
            (f"{title}, start → end", *(_start_to_end(r, name) for r in evidence.values()))
            for name, title in titles.items()
        ),
        *claim.lines(evidence),
    ]
    return list(zip(*table, strict=True)) if len(evidence) > MANY else table


def write_claim(claim: Claim, judged: Judged, path: Path) -> None:
    """Render the page; everything in it is inside the one file."""
    evidence = judged.evidence
    first = next(iter(evidence.values()))
    titles = {name: MEASURES[name][0] for name in claim.measures}
    curves = {name: curves_of([r.history for r in own]) for name, own in evidence.items()}
    lined = titles and len(evidence) <= MANY
    context = {
        "title": claim.title,
        "verdict": verdict(judged),
        "cards": [],
        "says": claim.says,
        "criteria": criteria_table(judged),
        "rules": _rules(judged),
        "numbers": numbers_table(claim, judged),
        "seeds": ", ".join(str(record.seed) for record in first),
        "curves": collapse_curves(curves, titles) if lined else None,
        "meanings": {title: MEASURES[name][1] for name, title in titles.items()},
        "figures": claim.figures(evidence),
        "facts": origin(judged.provenance) | _settings(evidence),
    }
    write_page(Path(__file__).with_name("claim.html.jinja"), context, path)


def _rules(judged: Judged) -> list[tuple[str, str]]:
    """Criteria, and where their thresholds come from; those of one origin in one line."""
    origins: dict[str, list[str]] = {}
    for criterion in judged.criteria:
        origins.setdefault(criterion.why, []).append(criterion.statement)
    return [
        (first + (f", and {len(others)} like it" if others else ""), why)
        for why, (first, *others) in origins.items()
    ]


def _decision(criterion: Criterion) -> str:
    if criterion.verdict != "undecided":
        return criterion.verdict
    if criterion.seeds_needed is None:
        few = criterion.interval.n == 1
        return "undecided: " + ("two seeds at least are needed" if few else "too close to decide")
    return f"undecided: {criterion.seeds_needed:,} seeds would decide"


def _minutes(seconds: float) -> str:
    """A dash where no time was taken."""
    return f"{seconds / 60:.1f}" if seconds else "–"


def _runs(judged: Judged) -> list[Record]:
    return [record for records in judged.evidence.values() for record in records]


def _seeds(judged: Judged) -> int:
    return len(next(iter(judged.evidence.values())))


def _settings(evidence: Evidence) -> dict[str, str]:
    """Settings that all runs share, and for each variant what sets it apart."""
    settings = {name: records[0].settings for name, records in evidence.items()}
    aside = {"seed", "output", "resume", "root"}
    keys = [key for key in next(iter(settings.values())) if key not in aside]
    same = [k for k in keys if len({str(own.get(k)) for own in settings.values()}) == 1]
    first = next(iter(settings.values()))
    apart = {
        name: settings_in_words({k: own[k] for k in keys if k not in same})
        for name, own in settings.items()
    }
    return {"settings": settings_in_words({k: first[k] for k in same})} | apart


def _start_to_end(records: Sequence[Record], name: str) -> str:
    starts = [record.history[0].collapse[name] for record in records]
    known = [start for start in starts if start is not None]
    start = f"{sum(known) / len(known):.2g}" if known else "–"
    end = final(records, name)
    mean = sum(end) / len(end)
    return f"{start} → {'–' if math.isnan(mean) else f'{mean:.2g}'}"


def _percent(records: Sequence[Record], part: Literal["train", "test"]) -> str:
    return measured(interval([100 * accuracy for accuracy in last_accuracy(records, part)]))
