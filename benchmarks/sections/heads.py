"""Times of a training step in the head, by what the head is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.charts import Panel, chart
from benchmarks.heads import LEARNED
from benchmarks.page import Section, Table
from recipes.pages.page import Figure
from recipes.pages.tables import Line, bytes_in_words

OURS, FLOOR = "tiled-fused", "ready"
FASTEST = "fastest learned"
SHOWN = ("dense", "tiled", OURS, FLOOR)

Size = tuple[int, int, int, int]
Times = Mapping[tuple[Size, str], Mapping[str, Any]]


def section(result: Mapping[str, Any]) -> Section:
    """Times as dots; ratios, all times, and memory as tables."""
    times, sizes = timed(result)
    ratios = [r for size in sizes if (r := _ratio(times, size, FASTEST, OURS)) is not None]
    span = f"{min(ratios):.1f} to {max(ratios):.0f}" if ratios else "–"
    return Section(
        title="What does a training step cost in the head?",
        verdict=_verdict(times, sizes, span),
        card=(span, "times less time in head, loss and optimiser than the fastest learned head"),
        figures=(Figure(_chart(times, sizes), "Median times on a logarithmic scale."),),
        tables=(
            Table(ratio_table(times, sizes), _RATIOS),
            Table(time_table(times, sizes), _TIMES),
            *_memory(times, sizes),
        ),
    )


def step_of(result: Mapping[str, Any], size: Size) -> tuple[str, str]:
    """Milliseconds of the fastest learned head, and of the fixed one."""
    times, _ = timed(result)
    return _cell(times.get((size, _fastest(times, size)))), _cell(times.get((size, OURS)))


def timed(result: Mapping[str, Any]) -> tuple[Times, list[Size]]:
    """Entries by size and way, and the sizes in order."""
    times = {(_size(entry), entry["method"]): entry for entry in result["steps"]}
    return times, list(dict.fromkeys(size for size, _ in times))


_RATIOS = (
    "Ratios of medians, within one process and run. “Learned” is the fastest of nn.Linear with "
    f"AdamW ({', '.join(LEARNED)}); “{OURS}” is a fixed head in the default orientation with "
    "CompoundCrossEntropy; “ready” is the cross-entropy of logits that exist already, which no "
    "head can do without."
)
_TIMES = (
    "Milliseconds a step, medians; the file has the tenth and ninetieth percentiles. What each way "
    "does: python -m benchmarks.heads --help."
)


def ratio_table(times: Times, sizes: Sequence[Size]) -> list[Line]:
    """For each size, how the fixed head stands to the fastest learned one and to the floor."""
    lines: list[Line] = [
        (
            "batch x features",
            "fastest learned",
            "ms",
            f"{OURS}, ms",
            "times less",
            f"times {FLOOR}",
        )
    ]
    for size in sizes:
        method = _fastest(times, size)
        cells = [_cell(times.get((size, name))) for name in (method, OURS)]
        for pair in ((FASTEST, OURS), (OURS, FLOOR)):
            ratio = _ratio(times, size, *pair)
            cells.append("–" if ratio is None else f"{ratio:.1f}")
        lines.append((_words(size), method, *cells))
    return lines


def time_table(times: Times, sizes: Sequence[Size]) -> list[Line]:
    """A line a way, a column a size."""
    methods = dict.fromkeys(method for _, method in times)
    return [
        ("", *(_words(size) for size in sizes)),
        *((method, *(_cell(times.get((size, method))) for size in sizes)) for method in methods),
    ]


def _memory(times: Times, sizes: Sequence[Size]) -> list[Table]:
    large = [
        size for size in sizes if any(s == size and "memory" in e for (s, _), e in times.items())
    ]
    if not large:
        return []
    methods = dict.fromkeys(method for size, method in times if size in large)
    lines: list[Line] = [("", *(_words(size) for size in large))]
    for method in methods:
        entries = (times.get((size, method), {}) for size in large)
        lines.append((method, *(_bytes(entry.get("memory")) for entry in entries)))
    return [Table(lines, "Peak memory of a step above what is in memory before it is set up.")]


def _bytes(memory: Mapping[str, Any] | None) -> str:
    if memory is None:
        return "–"
    return bytes_in_words(memory["bytes"]) if "bytes" in memory else _reason(memory)


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    if "median_s" not in entry:
        return _reason(entry)
    return f"{1e3 * entry['median_s']:.3g}"


def _reason(entry: Mapping[str, Any]) -> str:
    return str(entry.get("stopped") or entry.get("failed") or "–")


def _fastest(times: Times, size: Size) -> str:
    """The fastest learned head; the plain one where none could be measured."""
    found = {m: t for m in LEARNED if (t := _median(times, size, m)) is not None}
    return min(found, key=lambda method: found[method], default=LEARNED[0])


def _median(times: Times, size: Size, method: str) -> float | None:
    if method == FASTEST:
        method = _fastest(times, size)
    return times.get((size, method), {}).get("median_s")


def _ratio(times: Times, size: Size, above: str, below: str) -> float | None:
    high, low = _median(times, size, above), _median(times, size, below)
    return high / low if high and low else None


def _verdict(times: Times, sizes: Sequence[Size], span: str) -> str:
    floors = [r for size in sizes if (r := _ratio(times, size, OURS, FLOOR)) is not None]
    if not floors:
        return "Nothing could be measured."
    return (
        f"Head, loss and optimiser step of a fixed head take {span} times less time than those of "
        f"the fastest learned head, and {min(floors):.1f} to {max(floors):.1f} times that of the "
        "cross-entropy of logits that are there already; the larger the head, the more it saves. "
        "What that is of a whole training step: see below."
    )


def _chart(times: Times, sizes: Sequence[Size]) -> str:
    series = {
        method: [None if (t := _median(times, size, method)) is None else 1e3 * t for size in sizes]
        for method in (FASTEST, *SHOWN)
    }
    panel = Panel("Milliseconds a step", [_words(size) for size in sizes], series)
    return chart([panel], text=lambda v: f"{v:.3g} ms", logarithmic=True, missing="failed")


def _size(entry: Mapping[str, Any]) -> Size:
    return entry["batch"], entry["dim"], entry["tasks"], entry["classes"]


def _words(size: Size) -> str:
    batch, dim, tasks, classes = size
    of = f"{tasks} x {classes} classes" if tasks > 1 else f"K = {classes:,}"
    return f"{batch} x {dim:,}, {of}"
