"""Forgetting with a small rehearsal buffer, and the head that it depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from recipes.claims.claim import Claim, Criterion, Plan, Relation, Settings, Variant, accuracy_ahead
from recipes.claims.record import Evidence, differences, final
from recipes.pages.page import Figure
from recipes.pages.tables import Line, measured, points
from recipes.rehearsal.report import CAPTION, buffer_curves
from recipes.rehearsal.sessions import learn
from recipes.rehearsal.settings import REDUCED, HeadName, SessionsRun
from recipes.rehearsal.summary import MEASURES, Row, summarise_rows
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

SMALL = (0.005, 0.02)
"""Buffers with which the heads are compared."""

BASELINE: HeadName = "learned-norm"

ON_DIGITS: dict[HeadName, tuple[float, ...]] = {
    BASELINE: (0.0, *SMALL, 0.1, 0.5),
    "learned": (0.0, *SMALL),
    "etf": (0.0, *SMALL, 0.1, 0.5),
    "random-rows": SMALL,
    "cosine": SMALL,
    "no-bias": SMALL,
    "etf-4": SMALL,
    "etf-plain": SMALL,
}
"""Buffers of each head; all but the first two are there for the comparison."""

ON_MNIST: dict[HeadName, tuple[float, ...]] = dict.fromkeys(
    (BASELINE, "etf", "random-rows", "cosine"), (0.01,)
)

SHARED = ("data", "epochs", "train_images", "seed", "root", "download", "resume", "jobs")
"""Settings that mean the same in a run in sessions as in any other."""


def in_sessions(config: RunConfig, *, head: HeadName, buffer: float) -> RunResult:
    """A run of the claim; see :func:`recipes.rehearsal.sessions.learn`."""
    shared = {name: getattr(config, name) for name in SHARED}
    return learn(SessionsRun(**shared, head=head, buffer=buffer, output=config.run_dir))


def _name(data: str, head: str, buffer: float) -> str:
    return f"{data} {buffer:.1%}: {head}"


def _variants(
    data: str, buffers: Mapping[HeadName, tuple[float, ...]], settings: Settings
) -> dict[str, Variant]:
    """A variant for each head and buffer, by buffer, the baseline first."""
    pairs = sorted((buffer, head != BASELINE, head) for head in buffers for buffer in buffers[head])
    return {
        _name(data, head, buffer): Variant(
            {"data": data, **settings}, run=partial(in_sessions, head=head, buffer=buffer)
        )
        for buffer, _, head in pairs
    }


ASYMMETRY = "the paper: a minimal buffer prevents deep forgetting, and not shallow forgetting"
STATISTICS = "the paper: means of small buffers are inflated, and their covariances rank-deficient"
DRIFT = (
    "the paper: forgotten classes leave the span of what is trained; not seen in six runs before"
)
LENGTH = "ours: seen in six runs before, with other seeds"
ANGLES = "expected to fail: in runs before it was the length of the rows, not their angles"

RULES: tuple[tuple[HeadName, float, str, Relation, float, str], ...] = (
    (BASELINE, 0.005, "deep", "at most", 0.10, ASYMMETRY),
    (BASELINE, 0.005, "shallow", "at least", 0.30, ASYMMETRY),
    (BASELINE, 0.005, "inflation", "at least", 1.2, STATISTICS),
    (BASELINE, 0.5, "inflation", "at most", 1.1, STATISTICS),
    (BASELINE, 0.02, "effective_rank_ratio", "at most", 0.6, STATISTICS),
    (BASELINE, 0.5, "effective_rank_ratio", "at least", 0.9, STATISTICS),
    ("learned", 0.0, "old_mean_share", "at most", 0.5, DRIFT),
    (BASELINE, 0.0, "old_mean_share", "at most", 0.5, DRIFT),
)
"""Head, buffer, measure after the last session, and what it has to be."""

AHEAD: tuple[tuple[HeadName, HeadName, float, str], ...] = (
    ("etf", BASELINE, 3.0, LENGTH),
    ("etf", "random-rows", 1.0, ANGLES),
)
"""How far a head has to be ahead of another with the small buffers, in points of accuracy."""


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """What the paper says of learned heads, and what was found of fixed ones."""
    data = data_sets(evidence)[0]
    deep = [final(evidence[_name(data, "learned", buffer)], "deep") for buffer in (0.0, 0.005)]
    for head, buffer, measure, relation, threshold, why in RULES:
        yield Criterion(
            f"{head}, buffer {buffer:.1%}: {MEASURES[measure]}",
            final(evidence[_name(data, head, buffer)], measure),
            relation,
            threshold,
            why,
        )
    yield Criterion(
        "learned: deep forgetting without a buffer less that with 0.5%",
        differences(*deep),
        "at least",
        0.15,
        ASYMMETRY,
    )
    for head, other, threshold, why in AHEAD:
        for buffer in SMALL:
            yield accuracy_ahead(
                evidence,
                (_name(data, head, buffer), _name(data, other, buffer)),
                "at least",
                threshold,
                why,
            )


def data_sets(evidence: Evidence) -> list[str]:
    """Data sets of the variants; criteria are of the first."""
    return list(dict.fromkeys(name.partition(" ")[0] for name in evidence))


def rows_of(evidence: Evidence, data: str) -> list[Row]:
    """The rows of one data set, heads compared with the baseline of the same buffer."""
    runs = {}
    for name, records in evidence.items():
        place, _, head = name.partition(": ")
        found, _, buffer = place.partition(" ")
        if found == data:
            key = (head, float(buffer.removesuffix("%")) / 100)
            runs[key] = [record.history for record in records]
    return summarise_rows(runs)


def lines(evidence: Evidence) -> Iterator[Line]:
    """Difference to the baseline and measures of every variant."""
    rows = [row for data in data_sets(evidence) for row in rows_of(evidence, data)]
    yield (
        f"points ahead of {BASELINE}",
        *("" if row.ahead is None else points(row.ahead) for row in rows),
    )
    for name, title in MEASURES.items():
        yield (title, *(measured(row.measures[name]) for row in rows))


def figures(evidence: Evidence) -> list[Figure]:
    """Accuracy, forgetting and distortion over the size of the buffer."""
    data = data_sets(evidence)[0]
    rows = [row for row in rows_of(evidence, data) if row.head in (BASELINE, "learned", "etf")]
    return [Figure(buffer_curves(rows), f"{data}. {CAPTION}")]


CLAIM = Claim(
    name="replay",
    title="Small rehearsal buffers: what is forgotten, and by which head",
    says=(
        "Lanzillotta, Meier and Hofmann, “Asymptotic analysis of shallow and deep forgetting in "
        "replay with neural collapse” (2025, arXiv 2512.07400): a minimal buffer of earlier images "
        "prevents deep forgetting, by the features, and not shallow forgetting, by the classifier, "
        "since class means of the buffer are inflated and its covariances rank-deficient; classes "
        "that are forgotten drift out of the span of what is trained. Ours: behind features of the "
        "same batch normalisation, a simplex ETF of length 1 forgets less with small buffers than "
        "nn.Linear does. Five sessions of two classes, one head, logits of classes to come masked. "
        "Controls: learned rows of length 1 (cosine), frozen ones (random-rows), "
        "nn.Linear without a bias, ETFs of length 4 and without normalisation. Criteria are of "
        "digits; MNIST, with a buffer of 1%, stands beside."
    ),
    plans={
        "reduced": Plan(
            "multi-digits",
            {},
            _variants("digits", ON_DIGITS, REDUCED["digits"])
            | _variants("mnist", ON_MNIST, REDUCED["mnist"]),
            seeds=(10, 11, 12, 13, 14, 15),
        ),
        "full": Plan(
            "multi-digits",
            {},
            _variants("mnist", ON_DIGITS, {"epochs": 10}),
            seeds=(10, 11, 12, 13, 14, 15),
        ),
    },
    judge=judge,
    measures=(),
    lines=lines,
    figures=figures,
)
