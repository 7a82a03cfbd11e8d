"""The pictures of the theory recipe's pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from etf_heads.theory import binary_cosine
from recipes.comparison.figures import head_colours
from recipes.pages.canvas import COLOURS, heat_map, new_figure, plain, svg_text
from recipes.verification.effective import LOWEST, closed_form, limit_cosine

_FLOOR = 1e-10


def cosine_curves(lines: Sequence[Mapping[str, Any]]) -> str:
    """Theory, solver and descent of Theorem 5.1's lines, a colour a strength."""
    figure, axes = new_figure(1, 1, width=8.2, height=3.8)
    ax = axes[0]
    # Strengths that differ by rounding are one line of the plot.
    strengths = list(dict.fromkeys(f"{line['strength']:.3g}" for line in lines))
    for strength, colour in zip(strengths, COLOURS, strict=False):
        own = [line for line in lines if f"{line['strength']:.3g}" == strength]
        theory_curve(ax, float(strength), f"λ_W λ_H N = {strength}", color=colour)
        p = [line["share"] for line in own]
        solver = [line["cosines"]["solver"][0][2] for line in own]
        ax.plot(p, solver, "s", markersize=8, fillstyle="none", color=colour)
        descent = [line["cosines"]["descent"][0][2] for line in own]
        ax.plot(p, descent, "o", markersize=3.5, color=colour)
    ax.set(xlabel="p, share of samples with equal labels", ylabel="cosine", ylim=(-0.03, 1.05))
    ax.legend(loc="upper left")
    return svg_text(figure)


def theory_curve(ax: Axes, strength: float, label: str, **style: Any) -> None:
    """The closed form of Theorem 5.1 over all p from a half to one."""
    p = torch.linspace(0.5, 0.999, 400, dtype=torch.float64)
    ax.plot(p, binary_cosine(p, strength, 1.0, 1.0), label=label, **style)


def deviations(
    lines: Sequence[Mapping[str, Any]], titles: Mapping[str, str], tolerance: float
) -> str:
    """All deviations on a logarithmic axis, a row a theorem."""
    figure, axes = new_figure(1, 1, width=8.2, height=2.6)
    ax = axes[0]
    kinds = {"gram": "Gram", "cosine": "cosine", "gap": "logit gap", "solver": "solver"}
    theorems = [t for t in titles if any(line["theorem"] == t for line in lines)]
    for offset, ((kind, label), colour) in enumerate(zip(kinds.items(), COLOURS, strict=False)):
        points = [
            (max(line[kind], _FLOOR), theorems.index(line["theorem"]) + 0.16 * (offset - 1.5))
            for line in lines
            if line[kind] is not None
        ]
        x, y = zip(*points, strict=True) if points else ((), ())
        ax.plot(x, y, "o", markersize=4, alpha=0.6, color=colour, label=label, markeredgewidth=0)
    ax.axvline(tolerance, color="#222222", linewidth=0.9, linestyle=":")
    ax.set(xscale="log", xlim=(0.6 * _FLOOR, None), yticks=range(len(theorems)))
    ax.set_yticklabels([titles[t] for t in theorems])
    ax.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(kinds))
    return svg_text(figure)


def gram_pairs(lines: Sequence[Mapping[str, Any]]) -> str:
    """Cosines between class vectors from theory above and from descent below."""
    figure, axes = new_figure(2, len(lines), width=8.2, height=4.2)
    image = None
    for column, line in enumerate(lines):
        for row, kind in enumerate(("theory", "descent")):
            ax = axes[row * len(lines) + column]
            cosines = [
                [math.nan if c is None else c for c in values] for values in line["cosines"][kind]
            ]
            image = heat_map(ax, cosines, line["tasks"], f"{column + 1}: {kind}")
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.75, label="cosine", aspect=14)
    return svg_text(figure)


def measured_cosines(
    shares: Sequence[float],
    heads: Mapping[str, Sequence[Mapping[str, Any]]],
    fits: Mapping[str, Mapping[str, float]],
) -> str:
    """Measured angles of all heads with their intervals, and the closed forms that fit best."""
    figure, axes = new_figure(1, 1, width=8.2, height=3.8)
    ax = axes[0]
    for name, colour in head_colours(list(heads)).items():
        cells = heads[name]
        _error_bars(ax, shares, [cell["cosine"] for cell in cells], name, colour)
        if name in fits:
            strength = fits[name]["strength"]
            if strength > 1.5 * LOWEST:
                label = f"closed form fitted to {plain(name)}: {strength:.1e}"
                theory_curve(ax, strength, label, color=colour, linewidth=1)
            read = [cell["effective"]["strength_equal"] for cell in cells]
            theory = [closed_form([p], c)[0] for p, c in zip(shares, read, strict=True)]
            label = f"closed form, λ's from the logit gaps of {plain(name)}"
            ax.plot(shares, theory, "x", color=colour, label=label)
    p = torch.linspace(0.5, 0.999, 400).tolist()
    limit = [limit_cosine(share) for share in p]
    ax.plot(p, limit, ":", color="#0072B2", linewidth=1, label="closed form, λ_W λ_H N → 0")
    ax.set(xlabel="p, share of training images with equal labels", ylabel="cosine")
    ax.legend(loc="upper left", fontsize=8)
    return svg_text(figure)


def accuracies(shares: Sequence[float], heads: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Test error of all heads, on images like the training images and on those that disagree."""
    figure, axes = new_figure(1, 2, width=8.2, height=3.3)
    titles = {
        "at_share": "Test error, labels as correlated as in training",
        "different": "Test error on images with different labels",
    }
    for ax, (measure, title) in zip(axes, titles.items(), strict=True):
        for name, colour in head_colours(list(heads)).items():
            errors = [
                {"mean": 1 - cell[measure]["mean"], "half": cell[measure]["half"]}
                for cell in heads[name]
            ]
            _error_bars(ax, shares, errors, name, colour, joined=True)
        ax.set(title=title, xlabel="p")
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return svg_text(figure)


def _error_bars(
    ax: Axes,
    x: Sequence[float],
    values: Sequence[Mapping[str, float | None]],
    name: str,
    colour: str,
    *,
    joined: bool = False,
) -> None:
    means = [value["mean"] or 0.0 for value in values]
    halves = [value["half"] or 0.0 for value in values]  # 0: a single seed
    style = "o-" if joined else "o"
    ax.errorbar(
        x, means, yerr=halves, fmt=style, markersize=4, capsize=2, color=colour, label=plain(name)
    )
