"""Times and memory of a step in heads of far more classes than features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.linear import RIVALS
from benchmarks.many_classes import COSINE, FIXED, INFERENCE, LEARNED
from benchmarks.page import UNKNOWN, Section, Table
from benchmarks.sections.steps import FASTEST, Size, Steps
from recipes.pages.page import Figure
from recipes.pages.tables import Line

_OF_LEARNING = (*LEARNED, *RIVALS)


def section(result: Mapping[str, Any]) -> Section:
    """Times as dots; ratios, floors and memory as tables."""
    steps = steps_of(result)
    span = steps.times_less("streamed")
    chart = steps.chart((FASTEST, *FIXED), missing="does not fit")
    return Section(
        title="What does a step cost with far more classes than features?",
        verdict=_verdict(steps, span),
        card=(span, "times less time in head and exact loss than the fastest learned head"),
        figures=(Figure(chart, "Median times on a logarithmic scale."),),
        tables=(
            Table(_ratio_table(steps), _RATIOS),
            Table(steps.table(steps.time), _TIMES),
            Table(steps.table(steps.memory), _MEMORY),
            Table(_floor_table(result["floors"], steps), _FLOORS),
        ),
    )


def step_of(result: Mapping[str, Any], size: Size) -> tuple[str, str]:
    """Milliseconds of the fastest learned head, and of the exact loss of a fixed code."""
    steps = steps_of(result)
    return steps.time(size, FASTEST), steps.time(size, "streamed")


def steps_of(result: Mapping[str, Any]) -> Steps:
    """The entries of a result."""
    return Steps(result["steps"], ("batch", "dim", "classes"), _words, _OF_LEARNING)


_RATIOS = (
    "Ratios of medians, within one process and run. “Learned” is the fastest of nn.Linear with "
    f"AdamW ({', '.join(_OF_LEARNING)}) that fits into memory; “streamed” is SphericalCodeHead "
    "with the exact cross-entropy, “ntce” the same head with a loss of the batch's class vectors. "
    f"“topk” answers features at a cosine of {COSINE} to their class vector, against a product "
    "with a dense matrix."
)
_TIMES = (
    "Milliseconds a step, medians; the file has the tenth and ninetieth percentiles. What each way "
    "does: python -m benchmarks.many_classes --help."
)
_MEMORY = "Peak memory of a step above what is in memory before it is set up."
_FLOORS = (
    "Least work of the exact loss and its gradient: additions of two fast transforms a basis, and "
    "one exponential for two scores; and how many of them the measured time comes to."
)


def _ratio_table(steps: Steps) -> list[Line]:
    lines: list[Line] = [
        ("batch x features", FASTEST, "streamed: times less", "ntce", "topk", "exact")
    ]
    for size in steps.sizes:
        pairs = [(FASTEST, name) for name in FIXED]
        pairs += [("dense-topk", name) for name in INFERENCE[1:]]
        ratios = (steps.ratio(size, *pair) for pair in pairs)
        cells = (UNKNOWN if ratio is None else f"{ratio:,.1f}" for ratio in ratios)
        lines.append((_words(size), steps.fastest(size) or "none fits", *cells))
    return lines


def _floor_table(floors: Sequence[Mapping[str, Any]], steps: Steps) -> list[Line]:
    lines: list[Line] = [("batch x features", "additions", "exponentials", "a second, at streamed")]
    for floor in floors:
        size, work = steps.size_of(floor), floor["additions"] + floor["exponentials"]
        seconds = steps.seconds(size, "streamed")
        rate = UNKNOWN if seconds is None else f"{work / seconds / 1e9:.1f} · 10⁹"
        counts = (f"{floor[name] / 1e9:.2f} · 10⁹" for name in ("additions", "exponentials"))
        lines.append((_words(size), *counts, rate))
    return lines


def _verdict(steps: Steps, span: str) -> str:
    none_fits = [_words(size) for size in steps.sizes if steps.fastest(size) is None]
    found = (
        f"Head and exact loss of a fixed code take {span} times less time than the fastest learned "
        "head with its optimiser, where that fits into memory; NTCE does not depend on the number "
        "of classes."
    )
    if none_fits:
        found += f" No learned head fits at {' and '.join(none_fits)}."
    return found


def _words(size: Size) -> str:
    batch, dim, classes = size
    return f"{batch} x {dim:,}, K = {classes:,}"
