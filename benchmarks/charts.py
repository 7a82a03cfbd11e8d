"""Bar charts of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from recipes.pages.canvas import COLOURS, new_figure, plain, svg_text

LONGEST = 44  # characters of a label


@dataclass(frozen=True)
class Bars:
    """Groups of horizontal bars.

    Attributes:
        title: of the panel.
        labels: of the groups, from the top.
        series: a value a group, by the name of the series; None where there is none.
    """

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]


def bar_chart(
    panels: Sequence[Bars],
    *,
    text: Callable[[float], str],
    logarithmic: bool = False,
    bar: float = 0.16,
    missing: str = "",
) -> str:
    """Panels side by side with the same groups, as an ``<svg>`` element.

    Args:
        panels: one a column.
        text: what stands beside a bar.
        logarithmic: whether bars start at a power of ten below the least value.
        bar: height of a bar in inches.
        missing: what stands where there is no value.
    """
    first = panels[0]
    height = bar * len(first.labels) * (len(first.series) + 0.7) + 0.9
    figure, axes = new_figure(1, len(panels), width=8.2, height=height, sharey=True)
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, panel, text, logarithmic, missing)
    if len(first.series) > 1:
        handles, names = axes[0].get_legend_handles_labels()
        columns = min(len(names), 6)
        figure.legend(
            handles, names, loc="outside upper center", ncols=columns, fontsize=8, frameon=False
        )
    return svg_text(figure)


def _draw(
    ax: Axes, panel: Bars, text: Callable[[float], str], logarithmic: bool, missing: str
) -> None:
    values = [v for series in panel.series.values() for v in series if v is not None]
    foot = 10 ** math.floor(math.log10(min(values, default=1))) if logarithmic else 0.0
    thickness = 1 / (len(panel.series) + 0.7)
    for i, ((name, series), colour) in enumerate(zip(panel.series.items(), COLOURS, strict=False)):
        places = [k + (i - (len(panel.series) - 1) / 2) * thickness for k in range(len(series))]
        lengths = [foot if value is None else value for value in series]
        notes = [missing if value is None else text(value) for value in series]
        bars = ax.barh(
            places,
            [length - foot for length in lengths],
            height=0.92 * thickness,
            left=foot,
            color=colour,
            label=_plain(name),
        )
        ax.bar_label(bars, notes, padding=3, fontsize=7)
    ax.set_yticks(range(len(panel.labels)), [_plain(label) for label in panel.labels])
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.set_title(_plain(panel.title), loc="left", fontsize=9.5, fontweight="bold")
    ax.set_ylim(len(panel.labels) - 0.4, -0.6)
    ax.grid(visible=False)
    if logarithmic:
        ax.set_xscale("log")
    ax.set_xticks([], minor=False)
    ax.set_xticks([], minor=True)
    ax.spines["bottom"].set_visible(False)
    # Room for the text beside the longest bar.
    top = max(values, default=1.0)
    ax.set_xlim(foot, 2 * foot * (top / foot) ** 1.25 if logarithmic else 1.18 * top)


def _plain(label: str) -> str:
    """Text that matplotlib does not read as mathematics, and that leaves room for bars."""
    short = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
    return plain(short)
