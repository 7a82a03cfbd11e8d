"""Labels as users give them, for any number of tasks: checked, and brought into one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from etf_heads._tasks import Tasks

Labels = Tensor | Mapping[str, Tensor] | Sequence[Tensor]
"""Integers: one tensor (...) a task, by name or in order, or all tasks' in one tensor (..., T).

A single task's may also be one tensor (...).
"""

NO_LABEL = -100
"""The label of samples without one: PyTorch's default ``ignore_index``."""


def check_labels(labels: Labels, tasks: Tasks, shape: tuple[int, ...]) -> Tensor:
    """Labels of all tasks as int64 (*shape, T), in range or :data:`NO_LABEL`, or ValueError.

    Finding out whether they are in range waits for the device once.

    Args:
        labels: of a batch.
        tasks: whose labels they are.
        shape: of the batch.
    """
    stacked = stack_labels(labels, tasks, shape)
    check_range(stacked, tasks, no_label=NO_LABEL)
    return stacked


def check_range(labels: Tensor, tasks: Tasks, *, no_label: int | None = None) -> bool:
    """ValueError unless labels (..., T) are classes, or ``no_label``; waits for the device once.

    Returns:
        Whether none of them is ``no_label``; False where that is left open.
    """
    if not labels.numel():
        return False
    low, high = torch.stack(labels.aminmax()).tolist()
    if low >= 0 and high < min(tasks.sizes):
        return no_label is None or no_label < 0
    flat = labels.reshape(-1, len(tasks))
    limits = torch.iinfo(flat.dtype)
    lowest = highest = flat
    if no_label is not None:
        missing = flat == no_label
        lowest, highest = (
            flat.masked_fill(missing, limits.max),
            flat.masked_fill(missing, limits.min),
        )
    extremes = torch.stack([lowest.amin(0), highest.amax(0)], dim=1).tolist()
    for (low, high), size, name in zip(extremes, tasks.sizes, tasks.labels, strict=True):
        if low < 0 or high >= size:
            where = f" of task {name!r}" if tasks.names or len(tasks) > 1 else ""
            raise ValueError(
                f"labels{where} run from {low} to {high}, expected 0 to {size - 1}"
                + _way_out(low, no_label)
            )
    return False


def checked_by_device(labels: Tensor, size: int) -> Tensor:
    """Labels as they are; one outside of 0 to size - 1 is an error of the device, not waited for.

    For what would make a class vector of any number: a formula, or an index that may be negative.
    """
    return labels + labels.new_zeros(1).expand(size).gather(0, labels.flatten()).view_as(labels)


NOT_A_SET = "labels must be 0 or 1: a row is the set of labels of its sample"


def check_set_shape(labels: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless label sets are a tensor (..., K) of this shape."""
    if not isinstance(labels, Tensor) or tuple(labels.shape) != shape:
        given = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"labels must be a tensor of 0 and 1 of shape {shape}, one column a class; got {given}"
        )


def _way_out(low: int, no_label: int | None) -> str:
    if no_label is None:
        return "; leave out samples without a label"
    minus_one = "; -1 is not a label" if low == -1 else ""
    return f"{minus_one}; samples without a label have {no_label}"


def stack_labels(labels: Labels, tasks: Tasks, shape: tuple[int, ...]) -> Tensor:
    """Labels of all tasks as an int64 tensor of shape (*shape, T), of any values, or ValueError."""
    if isinstance(labels, Tensor) and len(tasks) == 1 and labels.ndim == len(shape):
        _check_shape(labels, shape, "labels")
        return labels.long().unsqueeze(-1)
    if not isinstance(labels, Tensor):
        columns = tasks.unpack(labels, "labels")
        for name, column in zip(tasks.labels, columns, strict=True):
            where = f"labels[{name!r}]" if tasks.names or len(tasks) > 1 else "labels"
            _check_shape(column, shape, where)
        labels = torch.stack([column.long() for column in columns], dim=-1)
    _check_shape(labels, (*shape, len(tasks)), "labels")
    return labels.long()


def _check_shape(labels: Tensor, shape: tuple[int, ...], argument: str) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"{argument} must be a tensor of integers, got {given}")
    if tuple(labels.shape) != shape:
        raise ValueError(
            f"{argument} has shape {tuple(labels.shape)}, expected {shape} for this batch"
        )
