"""The base classes of losses: labels (some may be missing), task weights and reduction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from etf_heads._labels import NO_LABEL, Labels, check_range, stack_labels
from etf_heads._precision import at_least_float32
from etf_heads._tasks import Tasks, TaskWeights
from etf_heads._tracing import is_traced
from etf_heads.losses._classifiers import AnyHead, Classifier, classifier_of

Reduction = Literal["mean", "task", "none"]


class TaskLoss(nn.Module):
    r"""A loss of features, head and labels: :math:`\sum_t c_t` times the mean over task t's labels.

    Subclasses implement :meth:`each`.

    Args:
        task_weights: :math:`c_t`, by task name or in order; 1 each when None.
        ignore_index: the label of samples that have none for a task.
        reduction: "mean", the weighted sum of the tasks' means; "task", its addends, shape (T,),
            as loss balancing takes them; "none", a weighted loss a sample, shape (..., T), zero
            where there is no label.

    Raises:
        ValueError: if an option is not possible, labels do not fit features and head, or (on the
            CPU, in eager execution) a label is out of range.
    """

    def __init__(
        self,
        *,
        task_weights: TaskWeights | None = None,
        ignore_index: int = NO_LABEL,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        check_task_weights(task_weights)
        self.task_weights = task_weights
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, features: Tensor, head: AnyHead, labels: Labels) -> Tensor:
        """The loss of features (..., d) under a head, with labels (...) a task."""
        classifier = classifier_of(head)
        if (compiled := self.compiled(features, classifier, labels)) is not None:
            return compiled
        tasks = classifier.tasks
        stacked = stack_labels(labels, tasks, tuple(features.shape[:-1]))
        complete = False
        if stacked.device.type == "cpu" and not is_traced():  # on a GPU one would wait for it
            complete = check_range(stacked, tasks, no_label=self.ignore_index)
        targets = stacked.flatten(0, -2)
        if self.reduction == "none":
            losses = self.each(features, classifier, targets)
            return self._weighted(losses, tasks).reshape(stacked.shape)
        if self.task_weights is None and (self.reduction == "mean" or len(tasks) == 1):
            total = self.total(features, classifier, targets, complete=complete)
            return total if self.reduction == "mean" else total.unsqueeze(0)
        means = self._weighted(self.means(features, classifier, targets), tasks)
        return means.sum() if self.reduction == "mean" else means

    def compiled(
        self,
        features: Tensor,  # noqa: ARG002
        head: Classifier,  # noqa: ARG002
        labels: Labels,  # noqa: ARG002
    ) -> Tensor | None:
        """The loss by a compiled kernel; None where there is none for it."""
        return None

    def each(self, features: Tensor, head: Classifier, labels: Tensor) -> Tensor:
        """Losses of labels (N, T), zero where there are none: (N, T)."""
        raise NotImplementedError

    def means(self, features: Tensor, head: Classifier, labels: Tensor) -> Tensor:
        """Mean losses of the labelled samples of labels (N, T), task by task: (T,)."""
        losses = self.each(features, head, labels)
        weights = mean_weights(labels != self.ignore_index, at_least_float32(losses.dtype))
        return (losses * weights).sum(0)

    def total(
        self,
        features: Tensor,
        head: Classifier,
        labels: Tensor,
        *,
        complete: bool,  # noqa: ARG002
    ) -> Tensor:
        """Sum () of the means of all tasks; ``complete`` says that no label is missing."""
        return self.means(features, head, labels).sum()

    def _weighted(self, losses: Tensor, tasks: Tasks) -> Tensor:
        if self.task_weights is None:
            return losses
        return losses * losses.new_tensor(tasks.unpack(self.task_weights, "task_weights"))

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return (
            f"task_weights={self.task_weights}, ignore_index={self.ignore_index}, "
            f"reduction={self.reduction}"
        )


class LogitLoss(TaskLoss):
    """A loss of each task's logits alone; neighbours of one size are one kernel, not one each.

    Subclasses implement :meth:`of_scores`, and :meth:`logits` where they need other ones.
    """

    few_classes = 0  # with fewer, and many tasks, scores come with the classes in dimension 1
    _MANY_TASKS = 4

    def logits(self, features: Tensor, head: Classifier) -> Tensor:
        """Logits of all tasks, up to what the loss does not see: (..., sum K_t)."""
        return head.all_softmax_logits(features)

    def of_scores(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Losses of scores (n, K, ...) and targets (n, ...), zero where there is no label."""
        raise NotImplementedError

    def each(self, features: Tensor, head: Classifier, labels: Tensor) -> Tensor:
        """Losses of labels (N, T), zero where there are none: (N, T)."""
        logits = self.logits(features, head).flatten(0, -2)
        if head.tasks.one_size:  # slices would be copied in backward
            return self._of_one_size(logits, labels)
        runs = [(len(list(run)), classes) for classes, run in groupby(head.tasks.sizes)]
        scores = logits.split([count * classes for count, classes in runs], dim=1)
        targets = labels.split([count for count, _ in runs], dim=1)
        losses = [self._of_one_size(z, y) for z, y in zip(scores, targets, strict=True)]
        return torch.cat(losses, dim=1)

    def grid(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and labels of tasks of one size with the classes in dimension 1."""
        count = labels.shape[1]
        if count == 1:
            return logits, labels.squeeze(1)
        grid = logits.unflatten(1, (count, -1))
        if count >= self._MANY_TASKS and grid.shape[2] < self.few_classes:
            return grid.mT, labels
        return grid.flatten(0, 1), labels.flatten()

    def _of_one_size(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.of_scores(*self.grid(logits, labels)).reshape(labels.shape)


def mean_weights(labelled: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights that make a sum over samples the mean of the labelled ones, task by task: (N, T)."""
    return labelled / labelled.sum(0, dtype=dtype).clamp(min=1)


def check_reduction(given: str) -> None:
    """ValueError unless it is a :data:`Reduction`."""
    if given not in get_args(Reduction):
        raise ValueError(
            f"reduction must be one of {', '.join(get_args(Reduction))}; got {given!r}"
        )


def check_task_weights(given: TaskWeights | None) -> None:
    """ValueError unless weights, of tasks that are not known yet, are finite and at least 0."""
    for weight in (given.values() if isinstance(given, Mapping) else given) or ():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"task_weights must be finite and at least 0, got {weight!r}")
