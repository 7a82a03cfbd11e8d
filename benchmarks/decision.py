"""When to use a fixed head: the README's first tables, from committed results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.sections import heads as heads_section
from benchmarks.sections import many_classes as many_section
from benchmarks.sections.training import sizes_of, step_table
from recipes.claims import ahead, loss_or_head
from recipes.claims.claim import Judged
from recipes.claims.record import Evidence, Record, last_accuracy, points_ahead
from recipes.comparison.summary import Comparison
from recipes.intervals import interval
from recipes.pages.tables import Line, points
from recipes.records import from_json

Result = Mapping[str, Any]

DECISION = ", ".join(
    (
        *(
            f"benchmarks/results/{name}.json"
            for name in ("savings", "heads", "many_classes", "training")
        ),
        *(f"recipes/results/{name}.json" for name in ("multi-digits", "cifar100-20")),
        *(
            f"recipes/results/claims/{name}.json"
            for name in (
                *("parameter-efficient", "multi-source", "defaults", "replay"),
                *("many-classes-tuned", "most-classes"),
            )
        ),
    )
)
"""The results of :func:`decision`, in its order."""

USE, MEASURE, AVOID = "**use it**", "**measure first**", "**do not**"
FEW = "CIFAR-100, 200 images a class, learned by heart"
BATCH = ", behind batch norm"
MEANS = ", running class means with NONL"


def decision(*results: Result) -> str:
    """A Markdown table: where, what a plain nn.Linear has, what a fixed head has."""
    savings, heads, many, training, digits, cifar, *claims = results
    efficient, sources, defaults, replay, tuned, most = claims
    step, learned, fixed, _ = step_table(sizes_of(training))[1]
    lines: list[Line] = [
        ("", "where, and what", "plain `nn.Linear`", "fixed head"),
        (USE, *_share(savings, "mobilenet_v2", "MobileNetV2", 1000)),
        (USE, *_head_step(heads, (256, 2048, 1, 1000), "1,000 classes, d = 2,048")),
        (USE, *_head_step(heads, (256, 512, 40, 2), "40 tasks of 2 classes, d = 512")),
        (
            USE,
            "digits in sessions, one image of each earlier class replayed, accuracy",
            *_claimed(replay, "digits 0.5%: etf", BATCH, learned="digits 0.5%: learned"),
        ),
        (
            USE,
            "4,000 characters, six images of each, six epochs, tuned alike, accuracy",
            *_class_means(tuned, "4,000 characters"),
        ),
        (
            USE,
            "20,000 characters, four images of each, six epochs, accuracy",
            *_class_means(most, "20,000 characters"),
        ),
        (
            MEASURE,
            "ms of head, exact loss and AdamW: 100,000 classes, d = 1,024; a code is learned late",
            *many_section.step_of(many, (256, 1024, 100_000)),
        ),
        (MEASURE, f"ms of a whole training step: {step}", learned, fixed),
        (MEASURE, "two digits an image, accuracy", *_compared(digits, "compound")),
        (MEASURE, "Multi-MNIST, 6,000 images, accuracy", *_claimed(efficient, "compound")),
        (MEASURE, "20 CIFAR-100 classes, augmented, accuracy", *_compared(cifar, "compound")),
        (MEASURE, "five tasks of 5 CIFAR-100 classes, accuracy", *_claimed(sources, "compound")),
        (MEASURE, f"{FEW}, accuracy", *_claimed(defaults, "default")),
        (AVOID, f"{FEW}, accuracy", *_claimed(defaults, "batch norm", BATCH)),
        (
            AVOID,
            "CIFAR-100 at 16 x 16 pixels, d = 64, tuned alike, accuracy",
            *_class_means(tuned, "100 classes in 64 dimensions"),
        ),
        (AVOID, *_share(savings, "resnet50", "ResNet-50", 10)),
    ]
    return markdown(lines)


def ahead_table(result: Judged) -> str:
    """A line a regime: the plain head, the best of each kind, and their paired difference."""
    evidence = result.evidence
    regimes = dict.fromkeys(name.partition(":")[0] for name in evidence)
    lines: list[Line] = [
        (
            *("regime", "plain `nn.Linear`", "best learned", "best fixed", "fixed - learned"),
            *("verdict", "fixed - best learned in hindsight"),
        )
    ]
    for regime, criterion in zip(regimes, result.criteria, strict=False):
        learned, fixed = (ahead.chosen(evidence, regime, kind) for kind in ahead.KINDS)
        cells = (
            _accuracy(evidence[f"{regime}: {ahead.PLAIN}"]),
            *(
                f"{_accuracy(evidence[name])} ({name.rpartition(', ')[2]})"
                for name in (learned, fixed)
            ),
        )
        found = (_difference(evidence, fixed, learned), criterion.verdict)
        lines.append(
            (regime, *cells, *found, _difference(evidence, fixed, _best(evidence, regime)))
        )
    return markdown(lines)


def _best(evidence: Evidence, regime: str) -> str:
    """The learned head of a regime that is the most accurate on the test images."""
    names = [name for name in evidence if name.startswith(f"{regime}: learned,")]
    return max(names, key=lambda name: fmean(last_accuracy(evidence[name])))


def markdown(lines: Sequence[Line]) -> str:
    """A Markdown table; a first cell like the one above it is left empty."""
    rows = [
        ("" if i and line[0] == lines[i - 1][0] else line[0], *line[1:])
        for i, line in enumerate(lines)
    ]
    head, *others = (
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows
    )
    return "\n".join((head, "| --- " * len(rows[0]) + "|", *others))


def _share(savings: Result, architecture: str, name: str, classes: int) -> Line:
    rows = (row for row in savings["rows"] if row["architecture"] == architecture)
    row = next(row for row in rows if row["classes"] == classes)
    fewer = row["saved"]["parameters"] / row["parameters"]
    return (
        f"parameters of {name}, {classes:,} classes",
        f"{row['parameters'] / 1e6:.1f} million",
        f"{fewer:.1%} fewer" if fewer < 0.01 else f"{fewer:.0%} fewer",
    )


def _head_step(heads: Result, size: tuple[int, int, int, int], text: str) -> Line:
    what = f"ms of head, loss and AdamW in a step, each at its fastest: {text}"
    return (what, *heads_section.step_of(heads, size))


def _compared(summary: Result, head: str) -> Line:
    heads = from_json(Comparison, summary).heads
    difference = points(heads[head].difference)
    return (f"{heads['learned'].accuracy.mean:.1%}", f"{difference} points")


def _claimed(judged: Result, variant: str, norm: str = "", *, learned: str = "learned") -> Line:
    evidence = from_json(Judged, judged).evidence
    difference = _difference(evidence, variant, learned)
    return (_accuracy(evidence[learned]), f"{difference} points{norm}")


def _class_means(judged: Result, regime: str) -> Line:
    linear = f"{regime}: {loss_or_head.LINEAR}"
    return _claimed(judged, f"{regime}: {loss_or_head.ROWS}", MEANS, learned=linear)


def _difference(evidence: Evidence, name: str, other: str) -> str:
    return points(interval([p / 100 for p in points_ahead(evidence[name], evidence[other])]))


def _accuracy(records: Sequence[Record]) -> str:
    return f"{interval(last_accuracy(records)).mean:.1%}"
