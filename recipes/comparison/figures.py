"""The pictures of a report, as SVG text that stands in the page itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from recipes.comparison.answer import MARGIN, is_learned
from recipes.comparison.curves import TEST_ACCURACY, Curve, Curves
from recipes.comparison.summary import HeadSummary
from recipes.pages.canvas import (
    COLOURS,
    GREYS,
    HeatMap,
    heat_maps,
    new_figure,
    plain,
    svg_text,
)
from recipes.pages.tables import points

FLOOR = 1e-6
"""What is below is 0 up to rounding."""

MOST_LETTERS = 40
"""Of a name in a figure."""


def head_colours(heads: Sequence[str]) -> dict[str, str]:
    """One colour a head: greys for learned ones, colours for fixed ones."""
    greys, colours = iter(GREYS), iter(COLOURS)
    return {h: next(greys if is_learned(h) else colours, "#000000") for h in heads}


def forest(heads: Mapping[str, HeadSummary], baseline: str) -> str:
    """Paired differences of test accuracy to the baseline with their intervals, a line a head.

    Half a percentage point on either side of the baseline is shaded; small dots are seeds.
    """
    others = {name: head for name, head in heads.items() if name != baseline}
    figure, (ax,) = new_figure(1, 1, width=4.8, height=0.48 * len(others) + 0.95)
    colours = head_colours(list(heads))
    ax.axvspan(-100 * MARGIN, 100 * MARGIN, color="#8a8a8a", alpha=0.18, linewidth=0)
    ax.axvline(0, color="#000000", linewidth=0.8)
    for row, (name, head) in enumerate(others.items()):
        difference, colour = head.difference, colours[name]
        seeds = [100 * value for value in head.differences]
        ax.plot(seeds, [row] * len(seeds), "o", color=colour, markersize=3, alpha=0.45)
        ax.errorbar(
            100 * difference.mean,
            row,
            xerr=None if difference.half is None else 100 * difference.half,
            fmt="o",
            color=colour,
            markersize=7,
            capsize=4,
            linewidth=2,
        )
        for text, side in ((plain(_short(name)), "left"), (points(difference), "right")):
            place = (0.0 if side == "left" else 1.0, row - 0.2)
            ax.text(*place, text, transform=ax.get_yaxis_transform(), ha=side, va="bottom")
    ax.set(yticks=[], ylim=(len(others) - 0.5, -0.75))
    ax.set_xlabel(f"points of test accuracy, less those of {plain(_short(baseline))}")
    ax.set_title("Left of the line: worse. Right of it: better.")
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, -150 * MARGIN), max(high, 150 * MARGIN))
    ax.spines["left"].set_visible(False)
    said = "; ".join(f"{name} {points(head.difference)}" for name, head in others.items())
    return svg_text(figure, f"Points of test accuracy, less those of {baseline}: {said}")


def accuracy_curves(heads: Mapping[str, Curves], target: float) -> str:
    """Test error over epochs, means over seeds between the extremes.

    The axis is logarithmic where errors fall to a quarter and less.
    """
    figure, axes = new_figure(1, 1, width=8.2, height=3.3)
    ax = axes[0]
    for name, colour in head_colours(list(heads)).items():
        curve = heads[name].curves[TEST_ACCURACY]
        error = Curve(*map(_errors, (curve.mean, curve.low, curve.high)))
        _line(ax, heads[name].epochs[1:], error, name, colour)
    ax.axhline(1 - target, color="#222222", linewidth=0.8, linestyle=":")
    ax.set(xlabel="epoch", title="Test error, mean over tasks")
    errors = _numbers([e for h in heads.values() for e in _errors(h.curves[TEST_ACCURACY].mean)])
    _error_axis(ax, errors)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper right")
    return svg_text(figure)


def collapse_curves(heads: Mapping[str, Curves], measures: Mapping[str, str]) -> str:
    """One small plot a measure, over epochs; 0 is full collapse in each."""
    columns = 3
    rows = -(-len(measures) // columns)
    figure, axes = new_figure(rows, columns, width=8.2, height=2.1 * rows + 0.4)
    colours = head_colours(list(heads))
    for ax, (measure, title) in zip(axes, measures.items(), strict=False):
        for name, colour in colours.items():
            _line(ax, heads[name].epochs, heads[name].curves[measure], name, colour)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _logarithmic_where_positive(ax, [h.curves[measure].mean for h in heads.values()])
    for ax in axes[len(measures) :]:
        ax.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    fitting = 5 if max(map(len, labels)) < 14 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), fitting))
    return svg_text(figure)


def gram_pictures(grams: Mapping[str, list[list[float]] | None], tasks: Sequence[int]) -> str:
    """Cosines between all class vectors, one picture a head; nothing if they are too many."""
    maps = [
        HeatMap(_short(name, 20), gram, tasks) for name, gram in grams.items() if gram is not None
    ]
    if not maps:
        return ""
    columns = min(4, len(maps))
    figure, _ = heat_maps(maps, columns, height=2.4 * -(-len(maps) // columns))
    return svg_text(figure)


def cost_ratios(heads: Mapping[str, HeadSummary], baseline: str) -> str:
    """Each cost of each head as a multiple of the baseline's, a dot each, from 0."""
    costs: dict[str, Callable[[HeadSummary], float]] = {
        "time: whole training": lambda head: head.train_seconds.mean,
        "time: head and loss": lambda head: head.cost.median,
        "optimiser state": lambda head: head.counts.optimizer_state_bytes,
        "checkpoint": lambda head: head.counts.checkpoint_bytes,
    }
    figure, axes = new_figure(1, len(costs), width=8.2, height=0.36 * len(heads) + 0.9, sharey=True)
    colours = head_colours(list(heads))
    names = [_short(name, 18) for name in heads]
    for ax, (title, cost) in zip(axes, costs.items(), strict=True):
        base = cost(heads[baseline])
        ratios = [cost(head) / base if base else math.nan for head in heads.values()]
        ax.axvline(1, color="#000000", linewidth=0.8)
        for row, (ratio, colour) in enumerate(zip(ratios, colours.values(), strict=True)):
            ax.plot([0, ratio], [row, row], color=colour, linewidth=1, alpha=0.5)
            ax.plot([ratio], [row], "o", color=colour, markersize=6)
            if math.isfinite(ratio):
                ax.annotate(
                    f"{ratio:.2f}", (ratio, row), (7, 0), textcoords="offset points", va="center"
                )
        highest = max([1.0, *(ratio for ratio in ratios if math.isfinite(ratio))])
        ax.set(title=title, xlim=(0, 1.4 * highest))
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.yaxis.grid(visible=False)
        ax.set_yticks(range(len(names)), [plain(name) for name in names])
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    return svg_text(figure, f"Costs of each head as multiples of those of {baseline}")


def _short(name: str, width: int = MOST_LETTERS) -> str:
    """A name that leaves room for the plot, in lines of this width."""
    return fill(name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…", width)


def _line(ax: Axes, epochs: Sequence[int], curve: Curve, name: str, colour: str) -> None:
    style = "--" if name == "learned-norm" else "-"
    ax.plot(epochs, _numbers(curve.mean), style, color=colour, label=plain(name))
    low, high = _numbers(curve.low), _numbers(curve.high)
    ax.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)


def _errors(accuracies: Sequence[float | None]) -> list[float | None]:
    """From the first epoch on."""
    return [None if accuracy is None else 1 - accuracy for accuracy in accuracies[1:]]


def _numbers(values: Sequence[float | None]) -> list[float]:
    """NaN where a measure is not defined, which leaves a gap in its line."""
    return [math.nan if value is None else value for value in values]


def _error_axis(ax: Axes, errors: Sequence[float]) -> None:
    """Ticks that differ from each other, at every range of errors."""
    ax.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * error:.3g}%"))
    real = [error for error in errors if error > 0]
    if not real or max(real) < 4 * min(real):
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_locator(MaxNLocator(6))
        return
    ax.set_yscale("log", nonpositive="mask")
    ax.set_ylim(0.7 * min(real), 1.3 * max(real))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * error:.3g}%"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _logarithmic_where_positive(ax: Axes, curves: Sequence[Sequence[float | None]]) -> None:
    """A fixed head's measures are 0 up to rounding, which a logarithmic axis leaves out."""
    real = [value for curve in curves for value in curve if value is not None and value > FLOOR]
    if not real or min(real) > 0.2 * max(real):
        ax.set_ylim(bottom=0)
        return
    for line in ax.lines:  # a gap, in place of a line that drops to the foot and comes back
        values = np.asarray(line.get_ydata(), dtype=float)
        line.set_ydata(np.where(values > FLOOR, values, math.nan))
    ax.set_yscale("log", nonpositive="mask")
    ax.set_ylim(bottom=0.5 * min(real), top=2 * max(real))
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_minor_formatter(NullFormatter())
