"""Focal loss of a head's tasks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads._labels import NO_LABEL
from etf_heads._precision import at_least_float32
from etf_heads._tasks import TaskWeights
from etf_heads.losses._task_loss import LogitLoss, Reduction


class CompoundFocal(LogitLoss):
    r"""Focal loss of all tasks of a head: cross-entropy that cares less for what is sure.

    .. math:: L = \sum_t c_t \, \frac1{N_t} \sum_{i \text{ labelled for } t}
              -(1 - p_i^t)^\gamma \log p_i^t,
              \qquad p_i^t = \mathrm{softmax}(W^t h_i + b^t)_{y_i^t}

    Lin, Goyal, Girshick, He and Dollár, "Focal loss for dense object detection" (ICCV 2017).
    Balanced tasks end in the same geometry as under cross-entropy (Zhou et al., "Are all losses
    created equal: a neural collapse perspective", NeurIPS 2022), with smaller logit
    gaps: :class:`etf_heads.theory.Focal` says which.

    Args:
        gamma: :math:`\gamma`, at least 0; 0 is cross-entropy.
        task_weights: as in :class:`CompoundCrossEntropy`.
        ignore_index: as in :class:`CompoundCrossEntropy`.
        reduction: as in :class:`CompoundCrossEntropy`.

    Shape:
        as :class:`CompoundCrossEntropy`.

    Raises:
        ValueError: as :class:`CompoundCrossEntropy`, or if gamma is negative.

    Example:
        >>> import torch
        >>> from etf_heads import ETFHead
        >>> head, features, labels = ETFHead(64, 10), torch.randn(8, 64), torch.arange(8)
        >>> plain = F.cross_entropy(head(features), labels)
        >>> torch.allclose(CompoundFocal(gamma=0.0)(features, head, labels), plain)
        True
        >>> bool(CompoundFocal(gamma=2.0)(features, head, labels) < plain)
        True
    """

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        task_weights: TaskWeights | None = None,
        ignore_index: int = NO_LABEL,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(task_weights=task_weights, ignore_index=ignore_index, reduction=reduction)
        if not (math.isfinite(gamma) and gamma >= 0):
            raise ValueError(f"gamma must be finite and at least 0, got {gamma!r}")
        self.gamma = float(gamma)

    def of_scores(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Losses of scores (n, K) and targets (n,), zero where there is no label."""
        scores = scores.to(at_least_float32(scores.dtype))
        losses = F.cross_entropy(scores, targets, reduction="none", ignore_index=self.ignore_index)
        # 1 - p; not 0, where a power below 1 has no derivative
        unsure = -torch.expm1(-losses)
        return losses * unsure.clamp_min(torch.finfo(unsure.dtype).tiny) ** self.gamma

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return f"gamma={self.gamma:g}, {super().extra_repr()}"
