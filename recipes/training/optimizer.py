"""The optimiser of a run: which parameters decay, and how the learning rate goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from recipes.training.settings import Settings


def make_optimizer(
    network: nn.Module, others: Iterable[nn.Parameter], settings: Settings
) -> Optimizer:
    """AdamW over the network, and what the task weighting learns."""
    return AdamW(parameter_groups(network, others, settings), lr=settings.lr, fused=True)


def parameter_groups(
    network: nn.Module, others: Iterable[nn.Parameter], settings: Settings
) -> list[dict[str, Any]]:
    """Matrices and convolutions decay, biases and norms do not."""
    parameters = [*network.parameters(), *others]
    matrices = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def warm_up_then_cosine(steps: int) -> Callable[[int], float]:
    """Learning rate at each step, as a share of the highest."""
    warm_up = max(1, steps // 10)

    def share(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return share
