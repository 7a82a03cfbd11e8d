"""Times of a training step in the head, by what the head is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.heads import LEARNED
from benchmarks.page import UNKNOWN, Section, Table
from benchmarks.sections.steps import FASTEST, Size, Steps
from recipes.pages.page import Figure
from recipes.pages.tables import Line

OURS, FLOOR = "tiled-fused", "ready"
SHOWN = ("dense", "tiled", OURS, FLOOR)


def section(result: Mapping[str, Any]) -> Section:
    """Times as dots; ratios, all times, and memory as tables."""
    steps = steps_of(result)
    span = steps.times_less(OURS)
    tables = [Table(ratio_table(steps), _RATIOS), Table(steps.table(steps.time), _TIMES)]
    if large := steps.measured_memory():
        tables.append(Table(steps.table(steps.memory, large), _MEMORY))
    chart = steps.chart((FASTEST, *SHOWN), missing="failed")
    return Section(
        title="What does a training step cost in the head?",
        verdict=_verdict(steps, span),
        card=(span, "times less time in head, loss and optimiser than the fastest learned head"),
        figures=(Figure(chart, "Median times on a logarithmic scale."),),
        tables=tables,
    )


def step_of(result: Mapping[str, Any], size: Size) -> tuple[str, str]:
    """Milliseconds of the fastest learned head, and of the fixed one."""
    steps = steps_of(result)
    return steps.time(size, FASTEST), steps.time(size, OURS)


def steps_of(result: Mapping[str, Any]) -> Steps:
    """The entries of a result."""
    return Steps(result["steps"], ("batch", "dim", "tasks", "classes"), _words, LEARNED)


_RATIOS = (
    "Ratios of medians, within one process and run. “Learned” is the fastest of nn.Linear with "
    f"AdamW ({', '.join(LEARNED)}); “{OURS}” is a fixed head in the default orientation with "
    "CompoundCrossEntropy; “ready” is the cross-entropy of logits that exist already, which no "
    "head can do without."
)
_TIMES = (
    "Milliseconds a step, medians; the file has the tenth and ninetieth percentiles. What each way "
    "does: python -m benchmarks.heads --help."
)
_MEMORY = "Peak memory of a step above what is in memory before it is set up."


def ratio_table(steps: Steps) -> list[Line]:
    """For each size, how the fixed head stands to the fastest learned one and to the floor."""
    lines: list[Line] = [
        (
            "batch x features",
            FASTEST,
            "ms",
            f"{OURS}, ms",
            "times less",
            f"times {FLOOR}",
        )
    ]
    for size in steps.sizes:
        method = steps.fastest(size) or LEARNED[0]
        cells = [steps.time(size, name) for name in (method, OURS)]
        for pair in ((FASTEST, OURS), (OURS, FLOOR)):
            ratio = steps.ratio(size, *pair)
            cells.append(UNKNOWN if ratio is None else f"{ratio:.1f}")
        lines.append((_words(size), method, *cells))
    return lines


def _verdict(steps: Steps, span: str) -> str:
    floors = steps.ratios(OURS, FLOOR)
    if not floors:
        return "Nothing could be measured."
    return (
        f"Head, loss and optimiser step of a fixed head take {span} times less time than those of "
        f"the fastest learned head, and {min(floors):.1f} to {max(floors):.1f} times that of the "
        "cross-entropy of logits that are there already; the larger the head, the more it saves. "
        "What that is of a whole training step: see below."
    )


def _words(size: Size) -> str:
    batch, dim, tasks, classes = size
    of = f"{tasks} x {classes} classes" if tasks > 1 else f"K = {classes:,}"
    return f"{batch} x {dim:,}, {of}"
