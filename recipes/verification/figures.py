"""The pictures of the theory recipe's pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from etf_heads.theory import binary_cosine
from recipes.comparison.figures import head_colours
from recipes.intervals import Interval
from recipes.pages.canvas import COLOURS, HeatMap, heat_maps, new_figure, plain, svg_text
from recipes.verification.descent import Line
from recipes.verification.effective import LOWEST, limit_cosine
from recipes.verification.images import Sweep

_FLOOR = 1e-10


def cosine_curves(lines: Sequence[Line]) -> str:
    """Theory, solver and descent of Theorem 5.1's lines, a colour a strength."""
    figure, axes = new_figure(1, 1, width=8.2, height=3.8)
    ax = axes[0]
    # Strengths that differ by rounding are one line of the plot.
    strengths = list(dict.fromkeys(f"{line.strength:.3g}" for line in lines))
    for strength, colour in zip(strengths, COLOURS, strict=False):
        own = [line for line in lines if f"{line.strength:.3g}" == strength]
        theory_curve(ax, float(strength), f"λ_W λ_H N = {strength}", color=colour)
        p = [line.share or 0.0 for line in own]
        solver = [line.cosines["solver"][0][2] for line in own]
        ax.plot(p, solver, "s", markersize=8, fillstyle="none", color=colour)
        descent = [line.cosines["descent"][0][2] for line in own]
        ax.plot(p, descent, "o", markersize=3.5, color=colour)
    ax.set(xlabel="p, share of samples with equal labels", ylabel="cosine", ylim=(-0.03, 1.05))
    ax.legend(loc="upper left")
    return svg_text(figure)


def theory_curve(ax: Axes, strength: float, label: str, **style: Any) -> None:
    """The closed form of Theorem 5.1 over all p from a half to one."""
    p = torch.linspace(0.5, 0.999, 400, dtype=torch.float64)
    ax.plot(p, binary_cosine(p, strength, 1.0, 1.0), label=label, **style)


def deviations(lines: Sequence[Line], titles: Mapping[str, str], tolerance: float) -> str:
    """All deviations on a logarithmic axis, a row a theorem."""
    figure, axes = new_figure(1, 1, width=8.2, height=2.6)
    ax = axes[0]
    kinds = list(lines[0].deviations)
    theorems = [t for t in titles if any(line.theorem == t for line in lines)]
    for offset, (kind, colour) in enumerate(zip(kinds, COLOURS, strict=False)):
        points = [
            (max(value, _FLOOR), theorems.index(line.theorem) + 0.16 * (offset - 1.5))
            for line in lines
            if (value := line.deviations[kind]) is not None
        ]
        x, y = zip(*points, strict=True) if points else ((), ())
        ax.plot(x, y, "o", markersize=4, alpha=0.6, color=colour, label=kind, markeredgewidth=0)
    ax.axvline(tolerance, color="#222222", linewidth=0.9, linestyle=":")
    ax.set(xscale="log", xlim=(0.6 * _FLOOR, None), yticks=range(len(theorems)))
    ax.set_yticklabels([titles[t] for t in theorems])
    ax.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(kinds))
    return svg_text(figure)


def gram_pairs(lines: Sequence[Line]) -> str:
    """Cosines between class vectors from theory above and from descent below."""
    maps = [
        HeatMap(f"{number}: {kind}", line.cosines[kind], line.tasks)
        for kind in ("theory", "descent")
        for number, line in enumerate(lines, start=1)
    ]
    return svg_text(heat_maps(maps, len(lines), height=4.2)[0])


def measured_cosines(sweep: Sweep) -> str:
    """Measured angles of all heads with their intervals, and the closed forms that fit best."""
    figure, axes = new_figure(1, 1, width=8.2, height=3.8)
    ax = axes[0]
    for name, colour in head_colours(list(sweep.heads)).items():
        _error_bars(ax, sweep.shares, [cell.cosine for cell in sweep.heads[name]], name, colour)
        if name in sweep.fits:
            strength = sweep.fits[name].strength
            if strength > 1.5 * LOWEST:
                label = f"closed form fitted to {plain(name)}: {strength:.1e}"
                theory_curve(ax, strength, label, color=colour, linewidth=1)
            label = f"closed form, λ's from the logit gaps of {plain(name)}"
            ax.plot(sweep.shares, sweep.closed_forms(name), "x", color=colour, label=label)
    p = torch.linspace(0.5, 0.999, 400).tolist()
    limit = [limit_cosine(share) for share in p]
    ax.plot(p, limit, ":", color="#0072B2", linewidth=1, label="closed form, λ_W λ_H N → 0")
    ax.set(xlabel="p, share of training images with equal labels", ylabel="cosine")
    ax.legend(loc="upper left", fontsize=8)
    return svg_text(figure)


def accuracies(sweep: Sweep) -> str:
    """Test error of all heads, on images like the training images and on those that disagree."""
    figure, axes = new_figure(1, 2, width=8.2, height=3.3)
    titles = (
        "Test error, labels as correlated as in training",
        "Test error on images with different labels",
    )
    for column, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for name, colour in head_colours(list(sweep.heads)).items():
            found = [(cell.at_share, cell.different)[column] for cell in sweep.heads[name]]
            errors = [replace(accuracy, mean=1 - accuracy.mean) for accuracy in found]
            _error_bars(ax, sweep.shares, errors, name, colour, joined=True)
        ax.set(title=title, xlabel="p")
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return svg_text(figure)


def _error_bars(
    ax: Axes,
    x: Sequence[float],
    values: Sequence[Interval],
    name: str,
    colour: str,
    *,
    joined: bool = False,
) -> None:
    means, halves = [value.mean for value in values], [value.spread for value in values]
    style = "o-" if joined else "o"
    ax.errorbar(
        x, means, yerr=halves, fmt=style, markersize=4, capsize=2, color=colour, label=plain(name)
    )
