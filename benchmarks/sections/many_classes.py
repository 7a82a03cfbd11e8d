"""Times and memory of a step in heads of far more classes than features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.charts import Panel, chart
from benchmarks.many_classes import COSINE, FIXED, INFERENCE, LEARNED, RIVALS
from benchmarks.page import Section, Table
from recipes.pages.page import Figure
from recipes.pages.tables import Line, bytes_in_words

Size = tuple[int, int, int]
Entries = Mapping[tuple[Size, str], Mapping[str, Any]]
_OF_LEARNING = (*LEARNED, *RIVALS)


def section(result: Mapping[str, Any]) -> Section:
    """Times as dots; ratios, floors and memory as tables."""
    entries, sizes = _by_size(result)
    ratios = [r for size in sizes if (r := _ratio(entries, size, "streamed")) is not None]
    span = f"{min(ratios):.1f} to {max(ratios):.0f}" if ratios else "–"
    return Section(
        title="What does a step cost with far more classes than features?",
        verdict=_verdict(entries, sizes, span),
        card=(span, "times less time in head and exact loss than the fastest learned head"),
        figures=(Figure(_chart(entries, sizes), "Median times on a logarithmic scale."),),
        tables=(
            Table(_ratio_table(entries, sizes), _RATIOS),
            Table(_table(entries, sizes, _time), _TIMES),
            Table(_table(entries, sizes, _memory), _MEMORY),
            Table(_floor_table(result, entries), _FLOORS),
        ),
    )


def times_table(result: Mapping[str, Any]) -> list[Line]:
    """Milliseconds a step: a line a way, a column a size."""
    entries, sizes = _by_size(result)
    return _table(entries, sizes, _time)


def step_of(result: Mapping[str, Any], size: Size) -> tuple[str, str]:
    """Milliseconds of the fastest learned head, and of the exact loss of a fixed code."""
    entries, _ = _by_size(result)
    learned = _median(entries, size, _fastest(entries, size) or "")
    exact = _median(entries, size, "streamed")
    return milliseconds(learned or math.nan), milliseconds(exact or math.nan)


def milliseconds(seconds: float) -> str:
    """Three digits, and all before the point."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 1 else f"{1e3 * seconds:.3g}"


def memory_table(result: Mapping[str, Any]) -> list[Line]:
    """Peak memory of a step, in the same order."""
    entries, sizes = _by_size(result)
    return _table(entries, sizes, _memory)


_RATIOS = (
    "Ratios of medians, within one process and run. “Learned” is the fastest of nn.Linear with "
    f"AdamW ({', '.join(_OF_LEARNING)}) that fits into memory; “streamed” is SphericalCodeHead "
    "with the exact cross-entropy, “ntce” the same head with a loss of the batch's class vectors. "
    f"“topk” answers features at a cosine of {COSINE} to their class vector, against a product "
    "with a dense matrix."
)
_TIMES = (
    "Milliseconds a step, medians; the file has the tenth and ninetieth percentiles. What each way "
    "does: python -m benchmarks.many_classes --help."
)
_MEMORY = "Peak memory of a step above what is in memory before it is set up."
_FLOORS = (
    "Least work of the exact loss and its gradient: additions of two fast transforms a basis, and "
    "one exponential for two scores; and how many of them the measured time comes to."
)


def _ratio_table(entries: Entries, sizes: Sequence[Size]) -> list[Line]:
    lines: list[Line] = [
        ("batch x features", "fastest learned", "streamed: times less", "ntce", "topk", "exact")
    ]
    for size in sizes:
        cells = [_fastest(entries, size) or "none fits"]
        pairs = [_ratio(entries, size, name) for name in FIXED]
        pairs += [_over(entries, size, "dense-topk", name) for name in INFERENCE[1:]]
        cells += ["–" if ratio is None else f"{ratio:,.1f}" for ratio in pairs]
        lines.append((_words(size), *cells))
    return lines


def _floor_table(result: Mapping[str, Any], entries: Entries) -> list[Line]:
    lines: list[Line] = [("batch x features", "additions", "exponentials", "a second, at streamed")]
    for floor in result["floors"]:
        work = floor["additions"] + floor["exponentials"]
        seconds = entries.get((_size(floor), "streamed"), {}).get("median_s")
        rate = "–" if seconds is None else f"{work / seconds / 1e9:.1f} · 10⁹"
        counts = (f"{floor[name] / 1e9:.2f} · 10⁹" for name in ("additions", "exponentials"))
        lines.append((_words(_size(floor)), *counts, rate))
    return lines


def _table(entries: Entries, sizes: Sequence[Size], cell: Any) -> list[Line]:
    """A line a way, a column a size."""
    methods = dict.fromkeys(method for _, method in entries)
    return [
        ("", *(_words(size) for size in sizes)),
        *(
            (method, *(cell(entries.get((size, method), {})) for size in sizes))
            for method in methods
        ),
    ]


def _time(entry: Mapping[str, Any]) -> str:
    return milliseconds(entry["median_s"]) if "median_s" in entry else _reason(entry)


def _memory(entry: Mapping[str, Any]) -> str:
    memory = entry.get("memory", entry)
    return bytes_in_words(memory["bytes"]) if "bytes" in memory else _reason(memory)


def _reason(entry: Mapping[str, Any]) -> str:
    return str(entry.get("stopped") or entry.get("failed") or "–")


def _fastest(entries: Entries, size: Size) -> str | None:
    found = {m: t for m in _OF_LEARNING if (t := _median(entries, size, m)) is not None}
    return min(found, key=lambda method: found[method], default=None)


def _median(entries: Entries, size: Size, method: str) -> float | None:
    return entries.get((size, method), {}).get("median_s")


def _ratio(entries: Entries, size: Size, ours: str) -> float | None:
    fastest = _fastest(entries, size)
    return None if fastest is None else _over(entries, size, fastest, ours)


def _over(entries: Entries, size: Size, above: str, below: str) -> float | None:
    high, low = _median(entries, size, above), _median(entries, size, below)
    return high / low if high and low else None


def _verdict(entries: Entries, sizes: Sequence[Size], span: str) -> str:
    none_fits = [_words(size) for size in sizes if _fastest(entries, size) is None]
    found = (
        f"Head and exact loss of a fixed code take {span} times less time than the fastest learned "
        "head with its optimiser, where that fits into memory; NTCE does not depend on the number "
        "of classes."
    )
    if none_fits:
        found += f" No learned head fits at {' and '.join(none_fits)}."
    return found


def _chart(entries: Entries, sizes: Sequence[Size]) -> str:
    times = {
        "fastest learned": [_median(entries, s, _fastest(entries, s) or "") for s in sizes],
        **{name: [_median(entries, s, name) for s in sizes] for name in FIXED},
    }
    series = {
        name: [None if value is None else 1e3 * value for value in values]
        for name, values in times.items()
    }
    panel = Panel("Milliseconds a step", [_words(size) for size in sizes], series)
    return chart(
        [panel],
        text=lambda v: f"{milliseconds(v / 1e3)} ms",
        logarithmic=True,
        missing="does not fit",
    )


def _by_size(result: Mapping[str, Any]) -> tuple[Entries, list[Size]]:
    entries = {(_size(entry), entry["method"]): entry for entry in result["steps"]}
    return entries, list(dict.fromkeys(size for size, _ in entries))


def _size(entry: Mapping[str, Any]) -> Size:
    return entry["batch"], entry["dim"], entry["classes"]


def _words(size: Size) -> str:
    batch, dim, classes = size
    return f"{batch} x {dim:,}, K = {classes:,}"
