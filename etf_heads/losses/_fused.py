"""The cross-entropy of one task and a fixed head with little memory traffic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etf_heads._precision import at_least_float32
from etf_heads.orientation import StructuredOrientation


class FusedCrossEntropy(torch.autograd.Function):
    r"""Weighted loss (1,) of features (N, d) whose class scores are :math:`s\,U^\top h`.

    Forward makes the softmax, and of it, in place, what backward needs: softmax less target.
    Backward lifts that. So two tensors of the size of the logits are made, where autograd of
    ``F.cross_entropy`` makes four, and on a CPU making them is most of the time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        labels: tuple[Tensor, Tensor],
        geometry: tuple[StructuredOrientation, float],
        smoothing: float,
    ) -> Tensor:
        """Sum over samples.

        Args:
            ctx: of autograd.
            features: (N, d).
            labels: classes (N, 1), and a weight for each, 0 where there is no label.
            geometry: U and s.
            smoothing: share of the target that is spread evenly over all classes.
        """
        (classes, weights), (orientation, scale) = labels, geometry
        scores = orientation.raw_project(features, scale)
        scores = scores.to(at_least_float32(scores.dtype))
        target = scores.gather(1, classes)
        if smoothing:
            target = target.lerp(scores.mean(1, keepdim=True), smoothing)
        residual = scores.softmax(1)
        # The largest probability is at least 1/K, so that its logarithm is exact.
        largest = residual.amax(1, keepdim=True)
        losses = scores.amax(1, keepdim=True).sub_(target).sub_(largest.log_())
        if smoothing:
            residual -= smoothing / residual.shape[1]
        residual.scatter_add_(1, classes, residual.new_full((), smoothing - 1).expand_as(classes))
        ctx.save_for_backward(residual.to(features.dtype), weights)
        ctx.geometry = geometry
        return losses.mul_(weights).sum(0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the features, from that of the loss (1,)."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "CompoundCrossEntropy of a fixed head differentiates once; for gradients of "
                "gradients (create_graph=True) take reduction='none' and average yourself"
            )
        residual, weights = ctx.saved_tensors
        orientation, scale = ctx.geometry
        factors = (weights * (upstream[0] * scale)).to(residual.dtype)
        return orientation.raw_lift(residual, factors), None, None, None
