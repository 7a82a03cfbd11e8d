"""The optimiser of a run: which parameters decay, and how the learning rate goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from etf_heads.surgery import decay_groups
from recipes.training.network import Network
from recipes.training.settings import Settings


def make_optimizer(
    network: Network, others: Iterable[nn.Parameter], settings: Settings
) -> Optimizer:
    """The optimiser of the settings over the network, and what the task weighting learns."""
    return optimizer_over(parameter_groups(network, others, settings), settings)


def optimizer_over(parameters: Iterable[Any], settings: Settings) -> Optimizer:
    """The same over any parameters, or groups of them."""
    if settings.optimizer == "sgd":
        return SGD(parameters, lr=settings.lr, momentum=0.9, nesterov=True, fused=True)
    return AdamW(parameters, lr=settings.lr, fused=True)


def parameter_groups(
    network: Network, others: Iterable[nn.Parameter], settings: Settings
) -> list[dict[str, Any]]:
    """Matrices and convolutions decay, biases and norms do not.

    The last two linear maps, projection and head, share ``head_decay``: it is all the projection's
    where the head is fixed. Without a projection a learned head has its half.
    """
    learned = any(p.ndim > 1 for p in network.head.parameters())
    last = _projection(network) + (["head"] if learned else [])
    multiplier = settings.head_decay / 2 if learned else settings.head_decay
    groups = decay_groups(network, settings.weight_decay, multiplier=multiplier, before=last)
    rest = list(others)
    return [*groups, {"params": rest, "weight_decay": 0.0}] if rest else groups


def _projection(network: Network) -> list[str]:
    """The name of the linear layer that the backbone ends in, if it ends in one."""
    layers = list(network.backbone.named_children())
    if layers and isinstance(layers[-1][1], nn.Linear):
        return [f"backbone.{layers[-1][0]}"]
    return []


def warm_up_then_cosine(steps: int) -> Callable[[int], float]:
    """Learning rate at each step, as a share of the highest."""
    warm_up = max(1, steps // 10)

    def share(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return share
