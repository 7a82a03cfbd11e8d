"""Times of solvers for the nearest ETF, and of heads in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.charts import Panel, chart
from benchmarks.page import Section, Table, reason
from recipes.pages.page import Figure
from recipes.pages.tables import Line, bytes_in_words

OURS = "polar"


def section(result: Mapping[str, Any]) -> Section:
    """Times as dots; memory, accuracy and training steps as tables."""
    solvers = result["solvers"]
    ratios = _ratios(solvers)
    known = [ratio for ratio in ratios if ratio is not None]
    span = f"{min(known):,.0f} to {max(known):,.0f}" if known else "–"
    return Section(
        title="What does the nearest ETF cost?",
        verdict=_verdict(solvers, span),
        card=(span, "times faster than the fastest iterative solver"),
        figures=(Figure(_chart(solvers), _caption(result)),),
        tables=(
            Table(
                solver_table(solvers),
                "Distances are the largest difference to the polar's ETF in any entry.",
            ),
            Table(
                step_table(result["training_step"]),
                "Milliseconds a training step: forward, "
                "loss, backward, and AdamW where something is learned; a batch of 128. resnet18 "
                "is the backbone alone, on 32 x 32 images, for comparison.",
            ),
        ),
    )


def solver_table(solvers: list[dict[str, Any]]) -> list[Line]:
    """A line a solver and size."""
    lines: list[Line] = [
        ("", "d", "K", "forward, ms", "with backward, ms", "memory", "distance to polar")
    ]
    for row in solvers:
        size = (row["name"], f"{row['dim']:,}", f"{row['classes']:,}")
        if "forward" not in row:
            lines.append((*size, reason(row), "–", "–", "–"))
            continue
        both = row.get("forward_backward")
        lines.append(
            (
                *size,
                _milliseconds(row["forward"]),
                _milliseconds(both) if both else "–",
                bytes_in_words(row["memory"]),
                f"{row['distance_to_polar']:.1e}",
            )
        )
    return lines


def step_table(steps: list[dict[str, Any]]) -> list[Line]:
    """A line a head, a column a size."""
    sizes = _sizes(steps)
    lines: list[Line] = [("", *(_size(*size) for size in sizes))]
    for name in dict.fromkeys(row["name"] for row in steps):
        own = {(r["dim"], r["classes"]): r for r in steps if r["name"] == name}
        cells = (_step(own.get(size)) for size in sizes)
        lines.append((name, *cells))
    return lines


def _step(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return _milliseconds(row["step"]) if "step" in row else reason(row)


def _milliseconds(times: Mapping[str, Any]) -> str:
    return _three_digits(1e3 * times["median_s"])


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _sizes(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return list(dict.fromkeys((row["dim"], row["classes"]) for row in rows))


def _size(dim: int, classes: int) -> str:
    return f"d = {dim:,}, K = {classes:,}"


def _time(solvers: list[dict[str, Any]], name: str, size: tuple[int, int]) -> float | None:
    """Median milliseconds of a solver at a size; None if it did not finish."""
    for row in solvers:
        if (row["name"], row["dim"], row["classes"]) == (name, *size) and "forward" in row:
            return 1e3 * row["forward"]["median_s"]
    return None


def _iterative(solvers: list[dict[str, Any]]) -> list[str]:
    return [name for name in dict.fromkeys(r["name"] for r in solvers) if not name.startswith(OURS)]


def _ratios(solvers: list[dict[str, Any]]) -> list[float | None]:
    """By size: time of the fastest iterative solver over that of the polar."""
    ratios = []
    for size in _sizes(solvers):
        ours = _time(solvers, OURS, size)
        others = [_time(solvers, name, size) for name in _iterative(solvers)]
        finished = [time for time in others if time is not None]
        ratios.append(min(finished) / ours if ours and finished else None)
    return ratios


def _verdict(solvers: list[dict[str, Any]], span: str) -> str:
    sizes = _sizes(solvers)
    parts = [
        f"{_three_digits(time)} ms at {_size(*size)}"
        for size in (sizes[0], sizes[-1])
        if (time := _time(solvers, OURS, size)) is not None
    ]
    return (
        f"The closed form in float64 takes {' and '.join(parts)}, {span} times less than the "
        "fastest iterative solver that finished."
    )


def _chart(solvers: list[dict[str, Any]]) -> str:
    sizes = _sizes(solvers)
    names = dict.fromkeys(row["name"] for row in solvers)
    series = {name: [_time(solvers, name, size) for size in sizes] for name in names}
    panel = Panel("Milliseconds for one nearest ETF", [_size(*size) for size in sizes], series)
    return chart(
        [panel],
        text=lambda v: f"{_three_digits(v)} ms",
        logarithmic=True,
        row=0.15,
        missing="did not finish",
    )


def _caption(result: Mapping[str, Any]) -> str:
    return (
        "Median times, forward, on a logarithmic scale; each solver has a process of its own, "
        f"stopped after {result['limit_s']:g} s. What each does: python -m benchmarks.nearest_etf "
        "--help."
    )
