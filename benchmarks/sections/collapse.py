"""Throughput and memory of measuring collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.charts import Panel, chart
from benchmarks.page import UNKNOWN, Section, Table, reason
from recipes.pages.page import Figure
from recipes.pages.tables import Line, bytes_in_words

METHODS = {
    "read": "every feature read once, which nothing can beat",
    "trace": "one pass, all measures but NC1",
    "full": "one pass, all measures, products in float32",
    "double": "the same with products in float64",
    "gather": "two passes over the data in float32, no loop over classes",
    "matmul": "two passes over the data, a loop over classes, float32",
    "float64": "the same in float64, the precision of double",
    "outer": "the same with a sum of outer products of samples",
}


def section(result: Mapping[str, Any]) -> Section:
    """Samples a second as dots, with peak memory as a table."""
    return Section(
        title="What does measuring collapse cost?",
        verdict=_verdict(result),
        card=(_range(result, "gather"), "times the speed of two passes in the same precision"),
        figures=(Figure(_chart(result["results"]), _caption(result)),),
        tables=(Table(collapse_table(result["results"]), _table_caption(result["results"])),),
    )


def collapse_table(results: list[dict[str, Any]]) -> list[Line]:
    """A line a measurement."""
    lines: list[Line] = [
        ("", "K", "d", "samples a second", "peak memory", "with 4 times the samples")
    ]
    for row in results:
        size = (row["method"], f"{row['classes']:,}", f"{row['features']:,}")
        later = row.get("peak_memory_bytes_at_4x_samples")
        if _speed(row) is None:
            lines.append((*size, reason(row), "–", "–"))
        else:
            speed, memory = f"{_speed(row):,.0f}", bytes_in_words(row["peak_memory_bytes"])
            lines.append((*size, speed, memory, "–" if later is None else bytes_in_words(later)))
    return lines


def _speed(row: Mapping[str, Any]) -> float | None:
    return row.get("samples_per_second")


def _range(result: Mapping[str, Any], other: str) -> str:
    ratios = [ratio.get(f"full over {other}") for ratio in result["throughput_ratios"].values()]
    known = [ratio for ratio in ratios if ratio and ratio > 0]  # not nan: it failed
    return f"{min(known):.2g} to {max(known):.2g}" if known else UNKNOWN


def _verdict(result: Mapping[str, Any]) -> str:
    others = {
        "gather": "two passes in float32",
        "matmul": "two passes in float32 with a loop over classes",
        "float64": "two passes in float64",
        "outer": "summed outer products",
    }
    known = [
        f"{_range(result, way)} times that of {what}"
        for way, what in others.items()
        if _range(result, way) != UNKNOWN
    ]
    return f"Throughput of one pass with the full covariance: {'; '.join(known) or UNKNOWN}."


def _chart(results: list[dict[str, Any]]) -> str:
    sizes = list(dict.fromkeys((row["classes"], row["features"]) for row in results))
    panels = []
    for classes, features in sizes:
        own = [r for r in results if (r["classes"], r["features"]) == (classes, features)]
        speeds = {"samples a second": [_speed(row) for row in own]}
        title = f"K = {classes:,}, d = {features:,}"
        panels.append(Panel(title, [r["method"] for r in own], speeds))
    return chart(panels, text=lambda v: f"{v:,.0f}", logarithmic=True, row=0.17, missing="failed")


def _caption(result: Mapping[str, Any]) -> str:
    return (
        f"Samples a second on a logarithmic scale, batches of {result['batch']}, "
        f"{result['threads']} thread(s), {result['clock']} clock. The network, which two-pass ways "
        "run twice, is not counted."
    )


def _table_caption(results: list[dict[str, Any]]) -> str:
    measured = {row["method"] for row in results}
    return "; ".join(f"{way}: {what}" for way, what in METHODS.items() if way in measured) + "."
