"""What a head costs in every training step, measured alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from etf_heads.losses import PickAllLabelsCrossEntropy
from recipes.training.loss import TaskLosses
from recipes.training.network import Network


@dataclass(frozen=True)
class HeadCost:
    """Seconds a step: median and interquartile range over ``n`` blocks of steps."""

    median: float
    iqr: float
    n: int


def head_cost(
    head: nn.Module, loss: TaskLosses, batch_size: int, in_features: int, device: torch.device
) -> HeadCost:
    """Seconds a step that head and loss take: forward, backward, and AdamW on what is learned.

    Args:
        head: takes features (B, d), returns a dict of logits by task.
        loss: of features, head and labels.
        batch_size: B.
        in_features: d.
        device: where to measure.
    """
    head = head.to(device).train()
    features = torch.randn(batch_size, in_features, device=device)
    logits = head(features)
    labels = torch.stack(
        [torch.randint(z.shape[1], (batch_size,), device=device) for z in logits.values()], dim=1
    )
    if isinstance(loss, PickAllLabelsCrossEntropy):
        labels = F.one_hot(labels[:, 0], next(iter(logits.values())).shape[1])
    network = Network(nn.Identity(), nn.Identity(), head, loss, logits)
    parameters = list(head.parameters())
    optimizer = torch.optim.AdamW(parameters) if parameters else None

    def step() -> None:
        inputs = features.detach().requires_grad_()
        network.losses(inputs, labels).sum().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    times = timer.blocked_autorange(min_run_time=0.3)
    return HeadCost(times.median, times.iqr, len(times.times))
