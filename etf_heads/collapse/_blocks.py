"""Tables of pairs in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

_ENTRIES = 2**22  # of a block of pairs: 32 MiB in float64


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Rows of a table in blocks of a bounded number of entries."""
    step = max(1, _ENTRIES // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
