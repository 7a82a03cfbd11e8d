"""Squared error of a head's logits against centred targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads._labels import NO_LABEL
from etf_heads._precision import at_least_float32
from etf_heads._tasks import TaskWeights
from etf_heads.losses._classifiers import Classifier
from etf_heads.losses._task_loss import LogitLoss, Reduction


class CompoundSquaredError(LogitLoss):
    r"""Squared error of all tasks of a head, against centred one-hot targets.

    .. math:: L = \sum_t c_t \, \frac1{N_t} \sum_{i \text{ labelled for } t} \tfrac12
              \left| W^t h_i + b^t - \kappa (e_{y_i^t} - \mathbf 1/K_t) \right|^2

    Hui and Belkin, "Evaluation of neural architectures trained with square loss vs cross-entropy
    in classification tasks" (ICLR 2021), with :math:`\kappa e_y` there. Logits of class vectors
    that sum to zero, as those of a simplex ETF do, sum to zero: targets that do not need a bias,
    and without one several tasks share a mean direction. With centred targets no bias is needed
    and balanced tasks end in a compound ETF: :class:`etf_heads.theory.SquaredError` says which.

    Args:
        target: :math:`\kappa`, the logit gap asked for.
        task_weights: as in :class:`CompoundCrossEntropy`.
        ignore_index: as in :class:`CompoundCrossEntropy`.
        reduction: as in :class:`CompoundCrossEntropy`.

    Shape:
        as :class:`CompoundCrossEntropy`.

    Raises:
        ValueError: as :class:`CompoundCrossEntropy`, or if target is not positive.

    Note:
        Unit features and class vectors of length s have logit gaps up to
        :math:`s K/(K-1)`: take the head's ``scale`` (or features long enough) to reach κ.

    Example:
        >>> from etf_heads import ETFHead
        >>> head = ETFHead(64, 10)
        >>> features = 0.9 * head.weight[:3]  # logits 0.9 (e_y - 1/10) K/(K-1) = e_y - 1/10
        >>> bool(CompoundSquaredError()(features, head, torch.arange(3)) < 1e-12)
        True
    """

    def __init__(
        self,
        target: float = 1.0,
        *,
        task_weights: TaskWeights | None = None,
        ignore_index: int = NO_LABEL,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(task_weights=task_weights, ignore_index=ignore_index, reduction=reduction)
        if not (math.isfinite(target) and target > 0):
            raise ValueError(f"target must be a positive finite number, got {target!r}")
        self.target = float(target)

    def logits(self, features: Tensor, head: Classifier) -> Tensor:
        """Logits of all tasks: a constant matters here."""
        return head.all_logits(features)

    def of_scores(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Losses of scores (n, K) and targets (n,), zero where there is no label."""
        scores = scores.to(at_least_float32(scores.dtype))
        labelled = targets != self.ignore_index
        low = -self.target / scores.shape[1]
        wanted = torch.full_like(scores, low)
        wanted = wanted.scatter(1, targets.where(labelled, 0)[:, None], low + self.target)
        return ((scores - wanted).square().sum(1) / 2).where(labelled, 0)

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return f"target={self.target:g}, {super().extra_repr()}"
