"""Conversions as a table in the terminal, and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recipes.conversion.summary import Summary, Way
from recipes.conversion.swap import KEPT
from recipes.pages.canvas import COLOURS, GREYS, new_figure, plain, svg_text
from recipes.pages.page import origin, settings_in_words, write_page
from recipes.pages.tables import Line, percent, points

MARGIN = 0.005
"""The accuracy that a converted network may lose after one epoch: half a point."""


def convert_table(summary: Summary) -> list[Line]:
    """Lines of text, one a learned head and way; the first line names the columns."""
    rates = [f"{rate:g}" for rate in summary.rates]
    columns = [text for rate in rates for text in (f"epoch at {rate}", "less kept's")]
    lines: list[Line] = [("", "swapped", "less trained's", *columns)]
    for head, found in summary.heads.items():
        lines.append((f"{head}: {percent(found.trained)} trained", *[""] * (2 + len(columns))))
        for way, values in found.ways.items():
            after = [
                points(interval)
                for tuned in values.tuned
                for interval in (tuned.difference, tuned.to_kept)
            ]
            lines.append((f"  {way}", percent(values.swapped), points(values.swap), *after))
    return lines


def convert_verdict(summary: Summary) -> str:
    """By rule: which ways are within the margin after one epoch, beyond the spread of seeds."""
    return " ".join(
        _in_words(head, found.ways, rate, number)
        for head, found in summary.heads.items()
        for number, rate in enumerate(summary.rates)
    )


def _in_words(head: str, ways: Mapping[str, Way], rate: float, number: int) -> str:
    within: list[str] = []
    others: list[str] = []
    for way, values in ways.items():
        difference = values.tuned[number].difference
        if difference.half is None:
            return f"With one seed, no more can be said of “{head}”."
        shown = difference.mean - difference.half > -MARGIN
        (within if shown else others).append(way)
    return (
        f"“{head}”, after one epoch at {rate:g}: within {100 * MARGIN:g} points of the trained "
        f"network with {', '.join(within) or 'none'}; not shown for {', '.join(others) or 'none'}."
    )


def write_convert_report(summary: Summary, path: Path) -> None:
    """Render the page."""
    settings = summary.settings
    context = {
        "title": f"Learned heads swapped for fixed ones on {settings['data']}",
        "verdict": convert_verdict(summary),
        "cards": [
            {"value": points(values.swap), "label": f"points right after {way}, {head}"}
            for head, found in summary.heads.items()
            for way, values in found.ways.items()
            if way not in (KEPT, "CompoundETFHead")
        ],
        "lines": convert_table(summary),
        "seeds": len(summary.seeds),
        "figure": _errors(summary),
        "facts": origin(summary.provenance)
        | {
            "converted": f"at commit {summary.converted}",
            "settings": settings_in_words(settings),
            "seeds": ", ".join(map(str, summary.seeds)),
        },
    }
    write_page(Path(__file__).with_name("convert.html.jinja"), context, path)


def _errors(summary: Summary) -> str:
    """Test error of every network, before and after the swap, and fine-tuned."""
    rates = summary.rates
    stages = ["trained", "swapped", *(f"epoch\nat {rate:g}" for rate in rates)]
    heads = summary.heads
    figure, axes = new_figure(1, len(heads), width=8.2, height=3.2, sharey=True)
    for ax, (head, found) in zip(axes, heads.items(), strict=True):
        for place, (way, colour) in enumerate(zip(found.ways, [GREYS[0], *COLOURS], strict=False)):
            mine = [run for run in summary.runs if (run.head, run.way) == (head, way)]
            dots = [(0, run.trained) for run in mine] + [(1, run.swapped) for run in mine]
            dots += [(2 + rates.index(run.rate), run.tuned) for run in mine]
            ax.scatter(
                [stage + 0.18 * (place - 1.5) for stage, _ in dots],
                [100 * (1 - accuracy) for _, accuracy in dots],
                s=14,
                color=colour,
                zorder=3,
                label=plain(way),
            )
        ax.set(title=plain(head), yscale="log", xticks=range(len(stages)), xticklabels=stages)
    axes[0].set_ylabel("test error, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return svg_text(figure)
