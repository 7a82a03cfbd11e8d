"""The mean cross-entropy of one task and a fixed head with little memory traffic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etf_heads._precision import at_least_float32
from etf_heads.losses._task_loss import mean_weights
from etf_heads.orientation import StructuredOrientation


class FusedCrossEntropy(torch.autograd.Function):
    r"""Mean loss (1,) of features (N, d) whose class scores are :math:`s\,U^\top h`.

    Forward makes the softmax, and of it, in place, what backward needs: softmax less target.
    Backward lifts that. So two tensors of the size of the logits are made, where autograd of
    ``F.cross_entropy`` makes four, and on a CPU making them is most of the time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        labels: tuple[Tensor, int],
        geometry: tuple[StructuredOrientation, float],
        smoothing: float,
    ) -> Tensor:
        """Mean over the samples that have a label; 0 if none has.

        Args:
            ctx: of autograd.
            features: (N, d).
            labels: classes (N, 1), and the number that stands for no label.
            geometry: U and s.
            smoothing: share of the target that is spread evenly over all classes.
        """
        orientation, scale = geometry
        scores = orientation.raw_project(features, scale)
        scores = scores.to(at_least_float32(scores.dtype))
        classes, weights = _weighted(*labels, scores.dtype)
        target = scores.gather(1, classes)
        if smoothing:
            target = target.lerp(scores.mean(1, keepdim=True), smoothing)
        residual = scores.softmax(1)
        # The largest probability is at least 1/K, so that its logarithm is exact.
        losses = scores.amax(1, keepdim=True).sub_(target)
        losses.sub_(residual.amax(1, keepdim=True).log_())
        if smoothing:
            residual -= smoothing / residual.shape[1]
        residual.scatter_add_(1, classes, torch.full_like(target, smoothing - 1))
        ctx.save_for_backward(residual.to(features.dtype))
        ctx.geometry, ctx.weights = geometry, weights
        return losses.mul_(weights).sum(0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the features, from that of the loss (1,)."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "CompoundCrossEntropy of a fixed head differentiates once; for gradients of "
                "gradients (create_graph=True) take reduction='none' and average yourself"
            )
        (residual,) = ctx.saved_tensors
        orientation, scale = ctx.geometry
        factors = (upstream[0] * (ctx.weights * scale)).to(residual.dtype)
        return orientation.raw_lift(residual, factors), None, None, None


def _weighted(labels: Tensor, missing: int, dtype: torch.dtype) -> tuple[Tensor, float | Tensor]:
    """Classes, any where there is no label, and the weights of a mean over the others."""
    labelled = labels != missing
    if labels.device.type == "cpu" and labelled.all():  # on a GPU one would have to wait for it
        return labels, 1 / max(1, len(labels))
    return labels.where(labelled, 0), mean_weights(labelled, dtype)
