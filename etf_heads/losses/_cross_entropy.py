"""The cross-entropy of a head's tasks, straight from the features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from etf_heads._labels import NO_LABEL, Labels
from etf_heads._precision import at_least_float32
from etf_heads._tasks import TaskWeights
from etf_heads.heads import FixedHead
from etf_heads.losses._classifiers import Classifier
from etf_heads.losses._compiled import compiled_means
from etf_heads.losses._streamed import streamed_cross_entropy, streams
from etf_heads.losses._task_loss import LogitLoss, Reduction


class CrossEntropy(LogitLoss):
    """Softmax cross-entropy of whatever logits a subclass makes.

    Args:
        task_weights: as in :class:`TaskLoss`.
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1].
        ignore_index: as in :class:`TaskLoss`.
        reduction: as in :class:`TaskLoss`.
    """

    streamed = True  # heads of many classes make no logits
    few_classes = 16  # a register's worth of numbers side by side: with fewer, tasks go there

    def __init__(
        self,
        *,
        task_weights: TaskWeights | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = NO_LABEL,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(task_weights=task_weights, ignore_index=ignore_index, reduction=reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing!r}")
        self.label_smoothing = label_smoothing

    def coordinates(self, features: Tensor, head: FixedHead) -> Tensor:
        """What the code of a head makes the logits of: (..., d) -> (..., columns)."""
        return head.coordinates(features)

    def each(self, features: Tensor, head: Classifier, labels: Tensor) -> Tensor:
        """Losses of labels (N, T), zero where there are none: (N, T)."""
        if not (self.streamed and streams(head)):
            return super().each(features, head, labels)
        return streamed_cross_entropy(
            self.coordinates(features, head),
            head.code,
            labels,
            ignore_index=self.ignore_index,
            smoothing=self.label_smoothing,
        )

    def total(
        self, features: Tensor, head: Classifier, labels: Tensor, *, complete: bool
    ) -> Tensor:
        """Sum () of the means of all tasks: one mean where tasks have one size, and all labels."""
        if not complete or not head.tasks.one_size or (self.streamed and streams(head)):
            return super().total(features, head, labels, complete=complete)
        grid = self.grid(self.logits(features, head).flatten(0, -2), labels)
        mean = self.of_scores(*grid, reduction="mean")
        return mean if len(head.tasks) == 1 else mean * len(head.tasks)

    def of_scores(self, scores: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
        """Cross-entropies of scores (n, K, ...), zero where there is no label, or their mean."""
        return F.cross_entropy(
            scores.to(at_least_float32(scores.dtype)),
            targets,
            reduction=reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return f"label_smoothing={self.label_smoothing:g}, {super().extra_repr()}"


class CompoundCrossEntropy(CrossEntropy):
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

    A learned head, for comparison, is an ``nn.Linear``, or an ``nn.ModuleDict`` (a dict, a list)
    of them, one a task::

        criterion(features, nn.Linear(64, 10), labels)
        criterion(features, nn.ModuleDict({"left": nn.Linear(64, 10), ...}), labels)

    What it ends in is said by :class:`etf_heads.theory.CrossEntropy`, a function of logits.

    Args:
        task_weights: :math:`c_t`, by task name or in order; 1 each when None.
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1].
        ignore_index: the label of samples that have none for a task; -100 as in PyTorch.
        reduction: "mean", the number above; "task", the addends a task, shape (T,), as loss
            balancing takes them; "none", a weighted loss a sample, shape (..., T), zero where
            there is no label.

    Shape:
        features (..., d); labels integers (...) a task, by name or in order, or all in one tensor
        (..., T).

    Raises:
        ValueError: if an option is not possible, labels do not fit features and head, the head
            is another callable, or a label is out of range. Labels on a GPU are checked by the
            device, as in PyTorch, since looking at them would wait for it.

    Note:
        A task without a labelled sample in the batch counts as 0, where PyTorch's mean is NaN.
        For heads of many classes (:class:`~etf_heads.SphericalCodeHead`) it makes no logits
        whatever the reduction, in memory that does not depend on their number, and differentiates
        once; for others it differentiates as often as you like.

    Example:
        >>> import torch
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

    def compiled(self, features: Tensor, head: Classifier, labels: Labels) -> Tensor | None:
        """The loss by a compiled kernel, where there is one for it."""
        if self.reduction == "none":
            return None
        total = self.reduction == "mean" and self.task_weights is None
        means = compiled_means(
            features,
            head,
            labels,
            ignore_index=self.ignore_index,
            smoothing=self.label_smoothing,
            total=total,
        )
        if means is None or total:
            return means
        means = self._weighted(means, head.tasks)
        return means.sum() if self.reduction == "mean" else means
