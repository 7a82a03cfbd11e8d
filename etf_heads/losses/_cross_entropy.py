"""The cross-entropy of a head's tasks, straight from the features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads._labels import Labels, stack_labels
from etf_heads._precision import at_least_float32
from etf_heads._tasks import Tasks
from etf_heads._tracing import is_traced
from etf_heads.heads import Head
from etf_heads.losses._fused import FusedCrossEntropy, mean_weights

_FEW_CLASSES = 16  # a register's worth of numbers side by side: with fewer, a softmax over many
_MANY_TASKS = 4  # tasks is faster with the tasks' scores side by side instead

Reduction = Literal["mean", "task", "none"]


class CompoundCrossEntropy(nn.Module):
    r"""Softmax cross-entropy of all tasks of a head, from features instead of logits.

    .. math:: L = \sum_t c_t \, \frac1{N_t} \sum_{i \text{ labelled for } t}
              \mathrm{CE}(W^t h_i + b^t,\; y_i^t)

    the loss of "Neural Collapse in Multi-Task Learning". It equals the sum of
    ``F.cross_entropy(logits[t], labels[t])`` over ``logits = head(features)``, in values and
    gradients, and costs less, for two reasons:

    - A softmax does not see a constant added to all scores of a task, and its gradient sums to
      zero over them. A simplex code is the identity then: what a head with :math:`\sum K_t`
      columns needs is its coordinates :math:`U^\top h`, times a number.
    - Tasks of equal size that are neighbours are one kernel, not one each.

    The loss holds nothing that belongs to a model: let the model return features in training, and
    keep the head in it, where its buffers and parameters move along.

    Args:
        task_weights: :math:`c_t`, by task name or in order; 1 each when None.
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1].
        ignore_index: the label of samples that have none for a task.
        reduction: "mean", the number above; "task", the addends a task, shape (T,), as loss
            balancing takes them; "none", a weighted loss a sample, shape (..., T), zero where
            there is no label.

    Shape:
        features (..., d); labels integers (...) a task, by name or in order, or all in one tensor
        (..., T).

    Raises:
        ValueError: if an option is not possible, or labels do not fit features and head.

    Note:
        A task without a labelled sample in the batch counts as 0, where PyTorch's mean is NaN.
        With one task and a head that stores and learns nothing it differentiates once, and says
        so; ``reduction="none"`` differentiates as often as you like.

    Example:
        >>> from etf_heads import CompoundETFHead
        >>> head = CompoundETFHead(64, {"left": 10, "right": 10})
        >>> criterion = CompoundCrossEntropy()
        >>> features = torch.randn(8, 64, requires_grad=True)
        >>> labels = {"left": torch.randint(10, (8,)), "right": torch.randint(10, (8,))}
        >>> loss = criterion(features, head, labels)
        >>> logits = head(features)
        >>> plain = sum(F.cross_entropy(logits[task], labels[task]) for task in logits)
        >>> torch.allclose(loss, plain)
        True
    """

    def __init__(
        self,
        *,
        task_weights: Mapping[str, float] | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing!r}")
        if reduction not in get_args(Reduction):
            raise ValueError(
                f"reduction must be one of {', '.join(get_args(Reduction))}; got {reduction!r}"
            )
        weights = task_weights.values() if isinstance(task_weights, Mapping) else task_weights
        for weight in weights or ():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"task_weights must be finite and at least 0, got {weight!r}")
        self.task_weights = task_weights
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, features: Tensor, head: Head, labels: Labels) -> Tensor:
        """The loss of features (..., d) under a head, with labels (...) a task."""
        stacked = stack_labels(labels, head.tasks, tuple(features.shape[:-1]))
        targets = stacked.flatten(0, -2)
        if self.reduction == "none":
            losses = self._each(head.all_softmax_logits(features), targets, head.tasks)
            return self._weighted(losses, head.tasks).reshape(stacked.shape)
        means = self._weighted(self._means(features, head, targets), head.tasks)
        return means.sum() if self.reduction == "mean" else means

    def _means(self, features: Tensor, head: Head, labels: Tensor) -> Tensor:
        """Mean losses of the labelled samples, task by task, of labels (N, T): (T,)."""
        geometry = head.softmax_geometry if len(head.tasks) == 1 else None
        if geometry is None or not features.requires_grad or is_traced():
            labelled = labels != self.ignore_index
            weights = mean_weights(labelled, at_least_float32(features.dtype))
            losses = self._each(head.all_softmax_logits(features), labels, head.tasks)
            return (losses * weights).sum(0)
        prepared = head.prepare(features).flatten(0, -2)
        means: Tensor = FusedCrossEntropy.apply(
            prepared, (labels, self.ignore_index), geometry, self.label_smoothing
        )
        return means

    def _weighted(self, losses: Tensor, tasks: Tasks) -> Tensor:
        if self.task_weights is None:
            return losses
        return losses * losses.new_tensor(tasks.unpack(self.task_weights, "task_weights"))

    def _each(self, logits: Tensor, labels: Tensor, tasks: Tasks) -> Tensor:
        """Losses of labels (N, T), zero where there are none; neighbours of one size in one go."""
        logits = logits.flatten(0, -2)
        if len(set(tasks.sizes)) == 1:  # slices would be copied in backward
            return self._of_one_size(logits, labels)
        runs = [(len(list(run)), classes) for classes, run in groupby(tasks.sizes)]
        scores = logits.split([count * classes for count, classes in runs], dim=1)
        targets = labels.split([count for count, _ in runs], dim=1)
        losses = [self._of_one_size(z, y) for z, y in zip(scores, targets, strict=True)]
        return torch.cat(losses, dim=1)

    def _of_one_size(self, logits: Tensor, labels: Tensor) -> Tensor:
        count = labels.shape[1]
        grid = logits.unflatten(1, (count, -1))
        if count >= _MANY_TASKS and grid.shape[2] < _FEW_CLASSES:
            scores, targets = grid.mT, labels
        else:
            scores, targets = grid.flatten(0, 1), labels.flatten()
        losses = F.cross_entropy(
            scores,
            targets,
            reduction="none",
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )
        return losses.reshape(labels.shape)

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return (
            f"task_weights={self.task_weights}, label_smoothing={self.label_smoothing:g}, "
            f"ignore_index={self.ignore_index}, reduction={self.reduction}"
        )
