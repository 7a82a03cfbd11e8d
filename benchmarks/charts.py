"""Charts of the page: groups of horizontal bars, or of dots where the axis is logarithmic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from recipes.pages.canvas import COLOURS, new_figure, plain, svg_text

LONGEST = 44  # characters of a label


@dataclass(frozen=True)
class Panel:
    """Groups of values.

    Attributes:
        title: of the panel.
        labels: of the groups, from the top.
        series: a value a group, by the name of the series; None where there is none.
    """

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]


def chart(
    panels: Sequence[Panel],
    *,
    text: Callable[[float], str],
    logarithmic: bool = False,
    row: float = 0.16,
    missing: str = "",
) -> str:
    """Panels side by side with the same groups, as an ``<svg>`` element.

    Args:
        panels: one a column.
        text: what stands beside a value.
        logarithmic: dots on a logarithmic axis, on which a bar has no foot; bars from 0 otherwise.
        row: height of a value in inches.
        missing: what stands where there is no value.
    """
    first = panels[0]
    height = row * len(first.labels) * (len(first.series) + 0.7) + 0.9
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
    ax: Axes, panel: Panel, text: Callable[[float], str], logarithmic: bool, missing: str
) -> None:
    values = [v for series in panel.series.values() for v in series if v is not None and v > 0]
    low, high = min(values, default=1.0), max(values, default=1.0)
    foot = low / 1.6 if logarithmic else 0.0
    thickness = 1 / (len(panel.series) + 0.7)
    for i, ((name, series), colour) in enumerate(zip(panel.series.items(), COLOURS, strict=False)):
        places = [k + (i - (len(panel.series) - 1) / 2) * thickness for k in range(len(series))]
        lengths = [foot if value is None else value for value in series]
        if logarithmic:
            known = [(v, y) for v, y in zip(series, places, strict=True) if v is not None]
            ax.plot(*zip(*known, strict=True) if known else ([], []), "o", color=colour, ms=5)
            ax.lines[-1].set_label(_plain(name))
        else:
            ax.barh(places, lengths, height=0.92 * thickness, color=colour, label=_plain(name))
        for value, length, place in zip(series, lengths, places, strict=True):
            note = missing if value is None else text(value)
            ax.annotate(
                note, (length, place), (5, 0), textcoords="offset points", va="center", fontsize=7
            )
    ax.set_yticks(range(len(panel.labels)), [_plain(label) for label in panel.labels])
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.set_title(_plain(panel.title), loc="left", fontsize=9.5, fontweight="bold")
    ax.set_ylim(len(panel.labels) - 0.4, -0.6)
    ax.yaxis.grid(visible=False)
    # Room for the text beside the largest value.
    ax.set_xlim(foot, 2 * foot * (high / foot) ** 1.25 if logarithmic else 1.18 * high)
    if logarithmic:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=5))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.tick_params(axis="x", labelsize=7)
        for edge in range(1, len(panel.labels)):
            ax.axhline(edge - 0.5, color="#e8e8e8", linewidth=0.8)  # between groups
    else:
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)


def _plain(label: str) -> str:
    """Text that matplotlib does not read as mathematics, and that leaves room for the values."""
    short = label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"
    return plain(short)
