"""What a run of the tests found, in words: tables of ``tests/README.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Outcome = Mapping[str, Any]
"""What ``pytest --outcome=FILE`` wrote."""

COLUMNS = {
    "passed": "passed",
    "failed": "failed",
    "skipped": "skipped",
    "cases": "cases tried",
    "hostile": "hostile inputs",
    "faults": "faults",
    "kills": "kills",
}


def rooms_table(outcome: Outcome) -> list[tuple[str, ...]]:
    """A line a room, and their sum; the first names the columns."""
    rooms = outcome["rooms"]
    total = {name: sum(room.get(name, 0) for room in rooms.values()) for name in COLUMNS}
    return [
        ("", *COLUMNS.values()),
        *(
            (title, *(f"{room.get(name, 0):,}" for name in COLUMNS))
            for title, room in (*rooms.items(), ("all", total))
        ),
    ]


def errors_table(outcome: Outcome) -> list[tuple[str, ...]]:
    """A line a quantity: by dtype, the error that came closest to its bound."""
    errors = {(e["quantity"], e["dtype"]): e for e in outcome["errors"]}
    dtypes = [d for d in DTYPES if any(dtype == d for _, dtype in errors)]
    return [
        ("", *dtypes),
        *(
            (quantity, *(_cell(errors.get((quantity, dtype))) for dtype in dtypes))
            for quantity in dict.fromkeys(quantity for quantity, _ in errors)
        ),
    ]


def _cell(error: Mapping[str, Any] | None) -> str:
    return "–" if error is None else f"{error['error']:.1e} ({error['bound']:.1e})"


DTYPES = ("float64", "float32", "bfloat16", "float16")


def sentence(outcome: Outcome) -> str:
    """What was run, and whether it is all there is."""
    packages = outcome["provenance"]["packages"]
    rooms = outcome["rooms"].values()
    counts = {n: sum(room.get(n, 0) for room in rooms) for n in ("passed", "failed", "skipped")}
    part = "" if outcome["complete"] else " **A part of the tests only.**"
    return (
        f"`{outcome['command']}`: {counts['passed']:,} passed, {counts['failed']:,} failed, "
        f"{counts['skipped']:,} skipped in {outcome['seconds']} s (Python "
        f"{outcome['provenance']['python']}, pytest {packages['pytest']}, hypothesis "
        f"{packages['hypothesis']}).{part}"
    )
