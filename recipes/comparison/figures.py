"""The pictures of a report, as SVG text that stands in the page itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from recipes.pages.canvas import COLOURS, GREYS, heat_map, new_figure, plain, svg_text

Values = Sequence[float | None]
"""Of a measure, over epochs."""


def head_colours(heads: Sequence[str]) -> dict[str, str]:
    """One colour a head: greys for learned ones, colours for fixed ones."""
    greys, colours = iter(GREYS), iter(COLOURS)
    return {h: next(greys if h.startswith("learned") else colours, "#000000") for h in heads}


def accuracy_curves(heads: Mapping[str, Any], target: float) -> str:
    """Test error over epochs on a logarithmic axis, means over seeds between the extremes."""
    figure, axes = new_figure(1, 1, width=8.2, height=3.3)
    ax = axes[0]
    for name, colour in head_colours(list(heads)).items():
        head = heads[name]
        curve = {k: [1 - a for a in v] for k, v in head["curves"]["test_accuracy"].items()}
        _line(ax, head["epochs"][1:], {k: v[1:] for k, v in curve.items()}, name, colour)
    ax.axhline(1 - target, color="#222222", linewidth=0.8, linestyle=":")
    ax.set(yscale="log", xlabel="epoch", title="Test error, mean over tasks")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper right")
    return svg_text(figure)


def collapse_curves(heads: Mapping[str, Any], measures: Mapping[str, str]) -> str:
    """One small plot a measure, over epochs; 0 is full collapse in each."""
    columns = 3
    rows = -(-len(measures) // columns)
    figure, axes = new_figure(rows, columns, width=8.2, height=2.1 * rows + 0.4)
    colours = head_colours(list(heads))
    for ax, (measure, title) in zip(axes, measures.items(), strict=False):
        for name, colour in colours.items():
            head = heads[name]
            _line(ax, head["epochs"], head["curves"][measure], name, colour)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _logarithmic_where_positive(ax, [heads[h]["curves"][measure]["mean"] for h in heads])
    for ax in axes[len(measures) :]:
        ax.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    fitting = 5 if max(map(len, labels)) < 14 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), fitting))
    return svg_text(figure)


def gram_pictures(heads: Mapping[str, Any], tasks: Sequence[int]) -> str:
    """Cosines between all class vectors, one picture a head; nothing if they are too many."""
    shown = {name: head["gram"] for name, head in heads.items() if head["gram"] is not None}
    if not shown:
        return ""
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(rows, columns, width=8.2, height=2.3 * rows)
    image = None
    for ax, (name, gram) in zip(axes, shown.items(), strict=False):
        image = heat_map(ax, gram, tasks, name)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.75, label="cosine", aspect=14)
    return svg_text(figure)


def savings_bars(heads: Mapping[str, Any], baseline: str) -> str:
    """Each cost of each head as a share of the baseline's."""
    costs: dict[str, Callable[[Any], float]] = {
        "head parameters": lambda head: head["counts"]["head_parameters"],
        "head time a step": lambda head: head["cost"]["median"],
        "optimiser state": lambda head: head["counts"]["optimizer_state_bytes"],
        "checkpoint": lambda head: head["counts"]["checkpoint_bytes"],
    }
    figure, axes = new_figure(1, len(costs), width=8.2, height=0.32 * len(heads) + 0.8, sharey=True)
    colours = head_colours(list(heads))
    for ax, (title, cost) in zip(axes, costs.items(), strict=True):
        shares = [cost(head) / cost(heads[baseline]) for head in heads.values()]
        bars = ax.barh(
            [plain(name) for name in heads], shares, color=list(colours.values()), height=0.7
        )
        ax.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3, fontsize=8)
        ax.set(title=title, xlim=(0, 1.35 * max(1.0, *shares)), xticks=[])
        ax.grid(visible=False)
        ax.spines["bottom"].set_visible(False)
    axes[0].invert_yaxis()
    return svg_text(figure)


def _line(
    ax: Axes, epochs: Sequence[int], curve: Mapping[str, Values], name: str, colour: str
) -> None:
    style = "--" if name == "learned-norm" else "-"
    # A line has a gap where a measure is not defined.
    mean, low, high = (
        [math.nan if value is None else value for value in curve[key]]
        for key in ("mean", "low", "high")
    )
    ax.plot(epochs, mean, style, color=colour, label=plain(name))
    ax.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)


def _logarithmic_where_positive(ax: Axes, curves: Sequence[Values]) -> None:
    """A fixed head's measures are 0 up to rounding: keep these at the foot of the plot."""
    real = [value for curve in curves for value in curve if value is not None and value > 1e-6]
    if not real or min(real) > 0.2 * max(real):
        ax.set_ylim(bottom=0)
        return
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.5 * min(real), top=2 * max(real))
