"""Runs in sessions as a table in the terminal, as a picture, and as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from recipes.comparison.figures import head_colours
from recipes.intervals import Interval
from recipes.pages.canvas import new_figure, plain, svg_text
from recipes.pages.page import origin, settings_in_words, write_page
from recipes.pages.tables import Line, measured, percent, points
from recipes.rehearsal.summary import MEASURES, Row, Summary

CAPTION = (
    "After the last session, means over seeds with 95% intervals, by the share of each earlier "
    "class's images that is kept. Deep forgetting is what a linear probe on the features loses, "
    "shallow forgetting what the head loses. Inflation and effective rank are those of the class "
    "means and covariances of the buffer over those of the population: 1 for a buffer like it."
)


def rows_table(rows: Sequence[Row]) -> list[Line]:
    """A line for each head and buffer; the first names the columns."""
    return [
        ("head, buffer", "test accuracy", f"points ahead of {rows[0].head}", *MEASURES.values()),
        *(
            (
                f"{row.head}, {row.buffer:.1%}",
                percent(row.accuracy),
                "" if row.ahead is None else points(row.ahead),
                *(measured(value) for value in row.measures.values()),
            )
            for row in rows
        ),
    ]


def verdict(rows: Sequence[Row], seeds: int) -> str:
    """One sentence for each head but the first, by rule."""
    first, *others = dict.fromkeys(row.head for row in rows)
    found = []
    for head in others:
        compared = [(row.buffer, row.ahead) for row in rows if row.head == head and row.ahead]
        decided = {
            f"ahead of {first}": [b for b, d in compared if d.half is not None and d.mean > d.half],
            f"behind {first}": [b for b, d in compared if d.half is not None and d.mean < -d.half],
        }
        places = [
            f"{where} with buffers of {', '.join(f'{buffer:.1%}' for buffer in sizes)}"
            for where, sizes in decided.items()
            if sizes
        ]
        found.append(f"{head} is {' and '.join(places) or f'not told apart from {first}'}.")
    said = " ".join(found) or f"Only {first} was trained."
    return f"{said} (n = {seeds} seeds, paired, 95% intervals of the difference in accuracy.)"


def buffer_curves(rows: Sequence[Row]) -> str:
    """Accuracy, forgetting and distortion over the size of the buffer, a colour a head."""
    figure, axes = new_figure(1, 3, width=8.2, height=3.4)
    buffers = sorted({row.buffer for row in rows})
    place = {buffer: x for x, buffer in enumerate(buffers)}
    plots: list[tuple[Axes, str, str, Callable[[Row], Interval | None]]] = [
        (axes[0], "Test accuracy", "o-", lambda row: row.accuracy),
        (axes[1], "Forgetting: shallow –, deep :", "o-", lambda row: row.measures["shallow"]),
        (axes[1], "", "o:", lambda row: row.measures["deep"]),
        (axes[2], "Inflation –, effective rank :", "o-", lambda row: row.measures["inflation"]),
        (axes[2], "", "o:", lambda row: row.measures["effective_rank_ratio"]),
    ]
    for ax, title, style, of in plots:
        for head, colour in head_colours(list(dict.fromkeys(row.head for row in rows))).items():
            own = [(place[row.buffer], of(row)) for row in rows if row.head == head]
            known = [(x, value) for x, value in own if value is not None]
            ax.errorbar(
                [x for x, _ in known],
                [value.mean for _, value in known],
                yerr=[value.spread for _, value in known],
                fmt=style,
                markersize=4,
                capsize=2,
                color=colour,
                label=plain(head) if ax is axes[0] else None,
            )
        if title:
            ax.set(title=title, xlabel="buffer")
            ax.set_xticks(range(len(buffers)), [f"{buffer:.2g}" for buffer in buffers])
    for ax in axes[:2]:
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    axes[2].axhline(1, color="#222222", linewidth=0.8, linestyle=":")
    figure.legend(loc="outside lower center", ncols=4)
    return svg_text(figure)


def write_report(summary: Summary, path: Path) -> None:
    """Render the page; everything in it is inside the one file."""
    context = {
        "title": f"Learning {summary.data} in sessions, with a rehearsal buffer",
        "verdict": verdict(summary.rows, len(summary.seeds)),
        "cards": [],
        "rows": rows_table(summary.rows),
        "curves": buffer_curves(summary.rows),
        "caption": CAPTION,
        "facts": origin(summary.provenance)
        | {"seeds": ", ".join(map(str, summary.seeds))}
        | {"settings": settings_in_words(summary.settings)},
    }
    write_page(Path(__file__).with_name("replay.html.jinja"), context, path)
