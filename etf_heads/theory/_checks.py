"""Checks of arguments shared by all files of the theory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from etf_heads._tasks import Tasks


def positive(**arguments: float) -> None:
    """Check that every argument is a positive, finite number."""
    for name, value in arguments.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value!r}")


def weights_of(
    tasks: Tasks, task_weights: Mapping[str, float] | Sequence[float] | Tensor | None
) -> Tensor:
    """Task weights c_t as a float64 tensor of shape (T,), ones when None."""
    if task_weights is None:
        return torch.ones(len(tasks), dtype=torch.float64, device="cpu")
    if isinstance(task_weights, Tensor):
        if task_weights.ndim != 1:
            raise ValueError(
                f"task_weights must have one dimension, got shape {tuple(task_weights.shape)}"
            )
        task_weights = task_weights.tolist()
    return torch.tensor(tasks.weights(task_weights), dtype=torch.float64, device="cpu")
