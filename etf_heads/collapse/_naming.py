"""Names of the values of several tasks."""

from __future__ import annotations

from collections.abc import Sequence

from etf_heads._tasks import Tasks


def with_mean_over_tasks(each: Sequence[dict[str, float]], tasks: Tasks) -> dict[str, float]:
    """{"name/task": value} of every task, then {"name": mean over tasks}.

    Example:
        >>> with_mean_over_tasks([{"x": 1.0}, {"x": 2.0}], Tasks.parse({"left": 2, "right": 2}))
        {'x/left': 1.0, 'x/right': 2.0, 'x': 1.5}
    """
    values = {
        f"{name}/{task}": value
        for task, own in zip(tasks.labels, each, strict=True)
        for name, value in own.items()
    }
    return values | {name: sum(own[name] for own in each) / len(each) for name in each[0]}
