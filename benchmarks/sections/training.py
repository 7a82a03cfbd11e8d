"""Throughput of whole training steps, and how much of the machine they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.charts import Panel, chart
from benchmarks.page import Section, Table, reason
from benchmarks.training import HEADS
from recipes.pages.page import Figure
from recipes.pages.tables import Line

THEIRS = "workers"
WAYS = {
    "learned": "the recipe with a learned head",
    "compound": "with a compound head",
    "learned-compiled": "learned, with --compile",
    "compound-compiled": "compound, with --compile",
    THEIRS: "learned, fed by worker processes that transform image by image",
    "input": "loader and augmentation of the recipe alone",
}
OURS = tuple(way for way in WAYS if way not in (THEIRS, "input"))
COMPILED = "-compiled"

Sizes = Sequence[Mapping[str, Any]]


def section(result: Mapping[str, Any]) -> Section:
    """Images a second as dots; times, shares and FLOPs as a table."""
    sizes = sizes_of(result)
    rates = [_rate(size, _fastest(size)) or 0 for size in sizes if "ways" in size]
    return Section(
        title="How fast does a recipe train?",
        verdict=_verdict(sizes),
        card=(
            f"{max(rates):,.0f}" if rates else "–",
            "images a second through the whole training step of a recipe",
        ),
        figures=(Figure(_chart(sizes), _CHART),),
        tables=(Table(step_table(sizes), _STEPS), Table(training_table(sizes), _TABLE)),
    )


def sizes_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sizes of a result; older ones have the number of classes once for all."""
    return [{"classes": result.get("classes")} | size for size in result["sizes"]]


_STEPS = (
    "A whole training step with a fixed and with a learned head: loader, augmentation, network, "
    "head and loss, backward, AdamW; ratios of medians, within one process and run. Above 1, the "
    "fixed head makes a step faster; below, slower."
)


def step_table(sizes: Sizes) -> list[Line]:
    """For each size, a step with the learned and with the fixed head."""
    lines: list[Line] = [("whole step", "learned, ms", "fixed, ms", "times as fast")]
    for size in sizes:
        for suffix in ("", COMPILED):
            ways = size.get("ways", {})
            pair = [ways.get(head + suffix, {}).get("median_s") for head in HEADS]
            if None not in pair:
                learned, fixed = pair
                times = (f"{1e3 * learned:.3g}", f"{1e3 * fixed:.3g}", f"{learned / fixed:.2f}")
                lines.append((words(size) + suffix.replace("-", ", "), *times))
    return lines


_CHART = "Images a second on a logarithmic scale: " + "; ".join(
    f"{way}: {what}" for way, what in WAYS.items()
)
_TABLE = (
    "Milliseconds a step, medians with the tenth and ninetieth percentile. Input: loader and "
    "augmentation alone over the step. Peak: FLOPs of the step's matrix products and convolutions "
    "over what a large matrix product reaches in the same precision and run. Random images; how "
    "each number is made: python -m benchmarks.training --help."
)


def training_table(sizes: Sizes) -> list[Line]:
    """A line a size and way."""
    lines: list[Line] = [("", "", "ms a step", "images a second", "input", "of the peak")]
    for size in sizes:
        if "ways" not in size:
            lines.append((words(size), reason(size), "–", "–", "–", "–"))
            continue
        found = [(way, size["ways"][way]) for way in WAYS if way in size["ways"]]
        lines += [(words(size), way, *_cells(numbers)) for way, numbers in found]
    return lines


def _cells(found: Mapping[str, float]) -> Line:
    median, low, high = (1e3 * found[name] for name in ("median_s", "low_s", "high_s"))
    shares = (found.get(name) for name in ("input_share", "share_of_peak"))
    return (
        f"{median:.3g} ({low:.3g} to {high:.3g})",
        f"{found['images_per_second']:,.0f}",
        *("–" if share is None else f"{share:.1%}" for share in shares),
    )


def words(size: Mapping[str, Any]) -> str:
    """A size in words."""
    precision = "float32" if size["precision"] == "no" else size["precision"]
    return (
        f"{size['backbone']}, width {size['width']}, {size['image_size']} px, K = "
        f"{size['classes']}, batch {size['batch']}, {precision}"
    )


def _rate(size: Mapping[str, Any], way: str) -> float | None:
    rate: float | None = size.get("ways", {}).get(way, {}).get("images_per_second")
    return rate


def _fastest(size: Mapping[str, Any]) -> str:
    return max((way for way in OURS if way in size["ways"]), key=lambda way: _rate(size, way) or 0)


def _verdict(sizes: Sizes) -> str:
    measured = [size for size in sizes if "ways" in size]
    if not measured:
        return "Nothing could be measured."
    size = measured[-1]
    way = _fastest(size)
    found, theirs = size["ways"][way], size["ways"][THEIRS]
    return (
        f"{words(size)}: the fastest way, {way}, trains on {found['images_per_second']:,.0f} "
        f"images a second, {found['images_per_second'] / theirs['images_per_second']:.1f} times as "
        f"many as with {size['workers']} worker process(es) that transform image by image; the "
        f"input alone takes {found['input_share']:.1%} of that step, which reaches "
        f"{found['share_of_peak']:.1%} of the rate of a large matrix product."
    )


def _chart(sizes: Sizes) -> str:
    series = {way: [_rate(size, way) for size in sizes] for way in WAYS}
    panel = Panel("Images a second", [words(size) for size in sizes], series)
    return chart([panel], text=lambda v: f"{v:,.0f}", logarithmic=True, missing="not measured")
