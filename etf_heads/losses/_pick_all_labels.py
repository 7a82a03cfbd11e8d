"""Pick-all-labels cross-entropy, for samples with several labels of one task."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from etf_heads._labels import NOT_A_SET, check_set_shape, checked_by_device
from etf_heads._precision import at_least_float32
from etf_heads._tracing import is_traced
from etf_heads.losses._classifiers import AnyHead, classifier_of
from etf_heads.losses._task_loss import Reduction, check_reduction

OverLabels = Literal["sum", "mean"]


class PickAllLabelsCrossEntropy(nn.Module):
    r"""The cross-entropy of every label that a sample has, for multi-label learning.

    .. math:: L = \frac1N \sum_i \sum_{k \in S_i} \mathrm{CE}(W h_i + b,\; k)

    Li, Li, Wang and Qu, "Neural collapse in multi-label learning with pick-all-label loss"
    (ICML 2024): class vectors end in one simplex ETF, and the feature of a label set in the sum
    of its labels' class vectors, times a number that depends on the size of the set. So one
    :class:`~etf_heads.ETFHead` of K classes is the head; the size of the set has to be known or
    predicted.

    Args:
        over_labels: "sum" over a sample's labels, as above, or "mean", which is cross-entropy with
            the target :math:`1/|S|` on each, as the authors' code trains.
        reduction: "mean" over the samples that have a label; "task", the same as shape (1,), as
            losses of several tasks have it; or "none": shape (...), zero where there is no label.

    Shape:
        features (..., d); labels (..., K), bool or 0 and 1.

    Raises:
        ValueError: if an option is not possible, labels do not fit, or the head has several tasks.

    Note:
        Keep d = K: in more dimensions the size of a label set can hide where no class vector is.

    Example:
        >>> import torch
        >>> from etf_heads import ETFHead
        >>> features = torch.randn(2, 8, requires_grad=True)
        >>> labels = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]])
        >>> loss = PickAllLabelsCrossEntropy()(features, ETFHead(8, 4), labels)
        >>> loss.backward()
    """

    def __init__(
        self,
        over_labels: OverLabels = "sum",
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if over_labels not in get_args(OverLabels):
            raise ValueError(f"over_labels must be 'sum' or 'mean', got {over_labels!r}")
        check_reduction(reduction)
        self.over_labels = over_labels
        self.reduction = reduction

    def forward(self, features: Tensor, head: AnyHead, labels: Tensor) -> Tensor:
        """The loss of features (..., d) under a head, with labels (..., K) of 0 and 1."""
        classifier = classifier_of(head)
        if len(classifier.tasks) > 1:
            raise ValueError(
                f"the head has {len(classifier.tasks)} tasks; label sets are of one: take a head a "
                "task"
            )
        check_set_shape(labels, (*features.shape[:-1], classifier.tasks.total))
        logits = classifier.all_softmax_logits(features)
        logits = logits.to(at_least_float32(logits.dtype))
        looked_at = labels.device.type == "cpu" and not is_traced()  # on a GPU one would wait
        if looked_at and ((labels != 0) & (labels != 1)).any():
            raise ValueError(NOT_A_SET)
        if not looked_at and not (labels.is_floating_point() or labels.dtype == torch.bool):
            labels = checked_by_device(labels.long(), 2)
        targets = labels.to(logits.dtype)
        counts = targets.sum(-1)
        losses = counts * logits.logsumexp(-1) - (targets * logits).sum(-1)
        if self.over_labels == "mean":
            losses = losses / counts.clamp(min=1)
        if self.reduction == "none":
            return losses
        mean = losses.sum() / (counts > 0).sum().clamp(min=1)
        return mean if self.reduction == "mean" else mean.unsqueeze(0)

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return f"over_labels={self.over_labels}, reduction={self.reduction}"
