"""The frame of a command: errors and interruptions end it in one line, options are checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

FAULTS = (OSError, ValueError, FloatingPointError)
"""Errors that the user of a command can do something about."""


@contextmanager
def command(
    *faults: type[Exception], resumes: str = "the same command with --resume"
) -> Iterator[None]:
    """End the program in one line at an error of the user's, or at Ctrl-C.

    Args:
        faults: more errors than ``FAULTS``.
        resumes: how an interrupted command goes on.
    """
    expected: tuple[type[Exception], ...] = (*FAULTS, *faults)
    try:
        yield
    except expected as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # every process of a launch gets the signal
            print(f"\ninterrupted: {resumes} goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def check_each_once(options: object, *names: str) -> None:
    """Refuse an option of several values that has none of them, or one twice."""
    for name in names:
        values = getattr(options, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={values}: at least one is needed, and none twice")
