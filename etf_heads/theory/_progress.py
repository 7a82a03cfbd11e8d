"""One line on the standard error stream while a solver works."""

from __future__ import annotations

import sys
import time

_PATIENCE = 2.0  # seconds before the line appears, when nobody asked for it
_INTERVAL = 0.2  # seconds between two states of the line


class Progress:
    """A line that is written over; shown on long work in a terminal, or always, or never."""

    def __init__(self, shown: bool | None) -> None:
        """``shown`` None: on a terminal, once the work has taken two seconds."""
        wanted = sys.stderr.isatty() if shown is None else shown
        self._started = time.monotonic()
        self._next = self._started + (0.0 if shown else _PATIENCE) if wanted else float("inf")
        self._width = 0
        self.state = ""

    def tick(self) -> None:
        """Write the state and the time, unless the line is still fresh."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        line = f"optimal_gram: {self.state}, {now - self._started:.0f} s"
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = len(line)

    def close(self) -> None:
        """End the line, if there is one."""
        if self._width:
            sys.stderr.write("\n")
            sys.stderr.flush()
