"""The compound ETF of several tasks: one simplex ETF a task, the tasks mutually orthogonal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.geometry._simplex import simplex_etf


def compound_etf(
    tasks: TaskSpec | Tasks,
    dim: int | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    r"""Compound simplex ETF: a simplex ETF for each task, zero inner products across tasks.

    The geometry that multi-task networks on balanced data end in ("Neural Collapse in Multi-Task
    Learning"). It needs :math:`\sum_t K_t - T` dimensions and no more.

    Args:
        tasks: class counts by task name, or in order.
        dim: dimensions to stand in. :math:`\sum K_t` when None, which gives each task the
            symmetric form of :func:`simplex_etf`; fewer gives each the Helmert form. Dimensions
            left over are zero.
        dtype: of the result.
        device: of the result.

    Returns:
        Tensor of shape (sum K_t, dim), the tasks' class vectors below each other.

    Raises:
        ValueError: if dim < sum K_t - T.

    Example:
        >>> W = compound_etf({"digit": 3, "parity": 2}, dim=3)
        >>> torch.allclose(W[:3] @ W[3:].T, torch.zeros(3, 2, dtype=W.dtype))
        True
    """
    tasks = Tasks.parse(tasks)
    dim = tasks.total if dim is None else dim
    if dim < tasks.rank:
        raise ValueError(
            f"dim={dim} is too small for orthogonal simplex ETFs of {list(tasks.sizes)} classes: "
            f"{tasks.rank} needed"
        )
    spare = 0 if dim >= tasks.total else 1
    blocks = [simplex_etf(k, k - spare, dtype=dtype, device=device) for k in tasks.sizes]
    frame: Tensor = torch.block_diag(*blocks)
    return F.pad(frame, (0, dim - frame.shape[1]))
