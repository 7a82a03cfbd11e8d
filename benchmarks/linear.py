"""Training steps of learned linear heads, with the losses that other packages have for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RIVALS = {"liger": "liger_kernel", "cce": "cut_cross_entropy"}
"""Losses of other packages, for a GPU, and the modules that have them."""

Step = Callable[[], object]
LinearLoss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Of features, weight, labels and bias."""


def linear_loss(name: str) -> LinearLoss:
    """The cross-entropy of a linear layer: PyTorch's in chunks, a rival's, or by way of logits.

    Args:
        name: "linear-chunked", one of :data:`RIVALS`, or anything else for the last.
    """
    if name == "linear-chunked":  # not in torch 2.11 and 2.12
        loss = getattr(F, "linear_cross_entropy")  # noqa: B009
        options = getattr(nn, "LinearCrossEntropyOptions")()  # noqa: B009
        return lambda x, weight, y, bias: loss(x, weight, y, linear_bias=bias, options=options)
    if name == "liger":
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # noqa: PLC0415

        criterion = LigerFusedLinearCrossEntropyLoss()
        return lambda x, weight, y, bias: criterion(weight, x, y, bias)
    if name == "cce":
        from cut_cross_entropy import linear_cross_entropy  # noqa: PLC0415

        return lambda x, weight, y, _: linear_cross_entropy(x.bfloat16(), weight.bfloat16(), y)
    return lambda x, weight, y, bias: F.cross_entropy(F.linear(x, weight, bias), y)


def has_chunked_loss() -> bool:
    """Whether this version of PyTorch has the loss in chunks."""
    return hasattr(nn, "LinearCrossEntropyOptions")


def rivals_for(device: str) -> list[str]:
    """The rivals that this machine can run."""
    if torch.device(device).type != "cuda":
        return []
    return [name for name, module in RIVALS.items() if find_spec(module)]


def training_step(
    features: Tensor,
    loss: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    fused: bool,
) -> Step:
    """Loss, gradients of the features and the parameters, and a step of AdamW if there are any."""
    optimizer = torch.optim.AdamW(parameters, fused=fused or None) if parameters else None

    def step() -> None:
        features.grad = None
        loss().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step
