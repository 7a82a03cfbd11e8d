"""Savings by architecture and number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.charts import Panel, chart
from benchmarks.page import Section, Table
from recipes.pages.page import Figure
from recipes.pages.tables import Line, bytes_in_words

COMPARED = (1000, 21841)
TABLED = 1000
NO_ETF = "no simplex ETF: K > d + 1"


def section(result: Mapping[str, Any]) -> Section:
    """Shares as bars; what is saved, and the published figures, as tables."""
    rows = result["rows"]
    shares = {r["architecture"]: r["share"] for r in rows if r["classes"] == TABLED}
    return Section(
        title="What does a fixed head save?",
        verdict=_verdict(rows),
        card=(
            f"{median(shares.values()):.1%}",
            f"of the parameters are the classifier's with {TABLED:,} classes, in the median",
        ),
        figures=(Figure(_chart(rows), _chart_caption(rows)),),
        tables=(
            Table(architecture_table(rows), _table_caption(result)),
            Table(published_table(result["published"]), _published_caption(result["published"])),
        ),
    )


def architecture_table(rows: list[dict[str, Any]]) -> list[Line]:
    """A line an architecture: the head's share by K, and what is saved at 1,000 classes."""
    classes = sorted({r["classes"] for r in rows})
    head = ("", "d", *(f"head, K = {k:,}" for k in classes))
    saved = tuple(f"{what} saved" for what in ("parameters", "optimiser state", "checkpoint"))
    lines: list[Line] = [(*head, *saved)]
    for name, own in _by_architecture(rows).items():
        cells = (_share(own[k]) for k in classes)
        lines.append((name, f"{own[TABLED]['features']:,}", *cells, *_saved(own[TABLED])))
    return lines


def published_table(published: list[dict[str, Any]]) -> list[Line]:
    """A line a published figure, with ours beside it."""
    lines: list[Line] = [
        ("", "K", "d", "parameters", "saved", "of all", "weights alone", "published", "fixed head")
    ]
    for row in published:
        numbers = (f"{row[name]:,}" for name in ("classes", "features", "parameters", "saved"))
        percents = (f"{row[name]:.2f}%" for name in ("percent", "weights_percent"))
        head = "simplex ETF" if row["simplex_etf"] else "another: K > d + 1"
        lines.append(
            (row["architecture"], *numbers, *percents, f"{row['published_percent']:g}%", head)
        )
    return lines


def agrees(row: Mapping[str, Any]) -> bool:
    """Whether ours, with or without biases, rounds to the digits that were published."""
    digits = len(f"{row['published_percent']:g}".partition(".")[2])
    ours = (round(row[name], digits) for name in ("percent", "weights_percent"))
    return row["published_percent"] in ours


def _by_architecture(rows: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Rows by architecture and K; the largest share at 1,000 classes first."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(f"{row['architecture']} ({row['library']})", {})[row["classes"]] = row
    return dict(sorted(found.items(), key=lambda item: -item[1][TABLED]["share"]))


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['share']:.2%}" + ("" if row["saved"] else " †")


def _saved(row: Mapping[str, Any]) -> Line:
    saved = row["saved"]
    if saved is None:
        return (NO_ETF, "–", "–")
    sizes = (bytes_in_words(saved[name]) for name in ("optimizer_state_bytes", "checkpoint_bytes"))
    return (f"{saved['parameters']:,}", *sizes)


def _verdict(rows: list[dict[str, Any]]) -> str:
    at = {k: [r for r in rows if r["classes"] == k] for k in COMPARED}
    few, many = (at[k] for k in COMPARED)
    least, most = (pick(few, key=lambda r: r["share"]) for pick in (min, max))
    return (
        f"With {COMPARED[0]:,} classes the classifier holds "
        f"{median(r['share'] for r in few):.1%} of the parameters in the median of {len(few)} "
        f"architectures, from {least['share']:.1%} ({least['architecture']}) to "
        f"{most['share']:.1%} ({most['architecture']}), and a fixed simplex ETF saves all of it "
        f"in {sum(r['saved'] is not None for r in few)} of them; with {COMPARED[1]:,} classes the "
        f"median is {median(r['share'] for r in many):.1%}, and a simplex ETF exists (K ≤ d + 1) "
        f"for {sum(r['saved'] is not None for r in many) or 'none'} of them."
    )


def _chart(rows: list[dict[str, Any]]) -> str:
    found = {
        name: own[TABLED] for name, own in _by_architecture(rows).items() if own[TABLED]["saved"]
    }
    shares = {f"{TABLED:,} classes": [row["share"] for row in found.values()]}
    title = f"Share of parameters saved, {TABLED:,} classes"
    return chart([Panel(title, list(found), shares)], text=lambda share: f"{share:.1%}", row=0.12)


def _chart_caption(rows: list[dict[str, Any]]) -> str:
    without = sum(r["saved"] is None for r in rows if r["classes"] == TABLED)
    return (
        f"Left out: {without} of {len(_by_architecture(rows))} architectures have too few features "
        f"for a simplex ETF of {TABLED:,} classes, which saves nothing there."
    )


def _table_caption(result: Mapping[str, Any]) -> str:
    return (
        "Share of the model's parameters that its classifiers hold, by number of classes K, and "
        f"what a fixed simplex ETF saves with K = {TABLED:,} (state of {result['optimizer']}, "
        "float32). † K > d + 1: no simplex ETF exists, and nothing is saved. Savings for every K, "
        "with the models' own sizes, are in the file."
    )


def _published_caption(published: list[dict[str, Any]]) -> str:
    sources = "; ".join(dict.fromkeys(row["source"] for row in published))
    wrong = [row["architecture"] for row in published if not agrees(row)]
    verdict = (
        f"All {len(published)} figures agree to the published digits"
        if not wrong
        else f"{len(wrong)} of {len(published)} figures differ: {', '.join(wrong)}"
    )
    return (
        f"{verdict}. Sources: {sources}. “Weights alone” keeps the classifier's biases as "
        "learned parameters."
    )
