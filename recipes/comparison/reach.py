"""First epochs at which runs have come down to a level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recipes.intervals import Interval, interval
from recipes.training.history import Epoch
from recipes.training.result import RunResult

LADDER = [float(f"{digit}e{power}") for power in range(0, -9, -1) for digit in (5, 2, 1)]
"""5, 2, 1, 0.5, 0.2, 0.1, ...: the levels that a curve may be asked to reach."""

LEVELS = 4
"""How many of them are looked at."""

Falling = Callable[[Epoch], float | None]
"""A number that falls with training; None where it is not defined."""


@dataclass(frozen=True)
class Reach:
    """The runs of a head that reached a level.

    Attributes:
        reached: their number.
        of: number of all runs.
        epochs: until the level, over those that reached it; None if there are none.
        seconds: of training until then.
    """

    reached: int
    of: int
    epochs: Interval | None = None
    seconds: Interval | None = None


@dataclass(frozen=True)
class Level:
    """A level, and who reached it, by head."""

    level: float
    heads: dict[str, Reach]


def test_error(row: Epoch) -> float:
    """Share of wrong test decisions, averaged over tasks."""
    return round(1 - row.test.mean_accuracy, 12)  # so that an accuracy of 99% is an error of 0.01


FALLING: dict[str, Falling] = {
    "test_error": test_error,
    "s_nc1_ratio": lambda row: row.collapse.get("s_nc1_ratio"),
    "s_nc4": lambda row: row.collapse.get("s_nc4"),
}
"""What falls with training whichever the head, and so is asked when it reached a level."""


def levels(by_head: Mapping[str, Sequence[RunResult]]) -> dict[str, list[Level]]:
    """When each falling curve came down to the lowest levels that matter, for each head.

    These are the last ``LEVELS`` of the ``LADDER`` that at least one head reached with every seed.
    """
    found = {}
    for name, curve in FALLING.items():
        reached = [
            level
            for level in LADDER
            if any(all(_first(run, curve, level) for run in runs) for runs in by_head.values())
        ]
        if reached:
            found[name] = [
                Level(
                    level,
                    {
                        head: time_to(runs, curve, [level] * len(runs))
                        for head, runs in by_head.items()
                    },
                )
                for level in reached[-LEVELS:]
            ]
    return found


def time_to(runs: Sequence[RunResult], curve: Falling, levels: Sequence[float]) -> Reach:
    """First epoch at which the curve of each run is not above its level."""
    found = [_first(run, curve, level) for run, level in zip(runs, levels, strict=True)]
    rows = [row for row in found if row is not None]
    if not rows:
        return Reach(0, len(runs))
    return Reach(
        len(rows),
        len(runs),
        epochs=interval([row.epoch for row in rows]),
        seconds=interval([row.train_seconds for row in rows]),
    )


def _first(run: RunResult, curve: Falling, level: float) -> Epoch | None:
    values = ((row, curve(row)) for row in run.history)
    return next((row for row, value in values if value is not None and value <= level), None)
