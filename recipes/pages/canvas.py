"""Figures of the pages: style, colours, heat maps, SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from etf_heads.collapse import plot_cosines

# Okabe and Ito's palette, which colour-blind readers can distinguish; grey for learned heads.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
GREYS = ["#222222", "#8a8a8a"]

_ADAPTED = {"#000000": "var(--ink)", "#222222": "var(--ink)", "#e8e8e8": "var(--line)"}
"""Colours that a page has in two versions, for light and dark screens."""

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "etf_heads",  # the same numbers give the same file
}


def new_figure(
    rows: int, columns: int, *, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with rows x columns of axes, in reading order."""
    # Figure, not pyplot: no global state, no display needed.
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, list(grid.flat)


class HeatMap(NamedTuple):
    """Cosines of class means or vectors (rows) to the class vectors of all tasks (columns)."""

    title: str
    cosines: Sequence[Sequence[float]]
    tasks: Sequence[int]


def heat_maps(maps: Sequence[HeatMap], columns: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """Heat maps in reading order, with one colour bar."""
    figure, axes = new_figure(-(-len(maps) // columns), columns, width=8.2, height=height)
    for ax, (title, cosines, tasks) in zip(axes, maps, strict=False):
        plot_cosines(torch.tensor(cosines), tasks, ax=ax, colorbar=False)
        ax.set_title(plain(title))
        ax.grid(visible=False)
        ax.set(xticks=[], yticks=[])
    for ax in axes[len(maps) :]:
        ax.set_axis_off()
    if maps:
        figure.colorbar(axes[0].images[0], ax=axes, shrink=0.75, label="cosine", aspect=14)
    return figure, axes


def plain(text: str) -> str:
    """Text that matplotlib does not read as mathematics; for names that users chose."""
    return text.replace("$", r"\$")


def page_colour(colour: str) -> str:
    """A colour as a page has it: black and greys of the grid follow light and dark screens."""
    return _ADAPTED.get(colour, colour)


def svg_text(figure: Figure, alt: str | None = None) -> str:
    """The figure as an ``<svg>`` element; the same numbers give the same text.

    Args:
        figure: the figure.
        alt: what it shows, in words, for those who do not see it; by default the titles.
    """
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    said = alt or "Plots: " + "; ".join(title for title in titles if title)
    for legend in (*figure.legends, *filter(None, (ax.get_legend() for ax in figure.axes))):
        legend.set_frame_on(False)  # whose white would stay on a dark screen
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        metadata = {"Date": None, "Title": said}
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    for colour, adapted in _ADAPTED.items():
        text = text.replace(colour, adapted)
    return text[text.index("<svg") :].replace("<svg ", '<svg role="img" ', 1)
