"""Losses that contrast the class vector of each sample with the features of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from etf_heads._labels import NO_LABEL, checked_by_device
from etf_heads._tasks import TaskWeights, positive_int
from etf_heads.losses._classifiers import Classifier
from etf_heads.losses._sphere import (
    check_temperature,
    unit_class_vectors,
    unit_features,
    without_autocast,
)
from etf_heads.losses._task_loss import Reduction, TaskLoss


class _BatchContrast(TaskLoss):
    """Losses ``log(sum over the batch of exp(w_y · u_j / τ)) - w_y · u / τ`` of unit vectors.

    The sum depends on a sample through its class only. So there is one a class where the batch
    has more samples than there are classes, and one a sample otherwise; each is computed from the
    class vectors of the batch's labels, in blocks.
    """

    negatives_only = False

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        block_size: int = 1024,
        task_weights: TaskWeights | None = None,
        ignore_index: int = NO_LABEL,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(task_weights=task_weights, ignore_index=ignore_index, reduction=reduction)
        self.temperature = check_temperature(temperature)
        self.block_size = positive_int(block_size, "block_size")

    def each(self, features: Tensor, head: Classifier, labels: Tensor) -> Tensor:
        """Losses of labels (N, T), zero where there are none: (N, T)."""
        with without_autocast(features):
            vectors = unit_features(head, features).flatten(0, -2)
            columns = [
                self._of_task(vectors, head, task, column)
                for task, column in enumerate(labels.unbind(1))
            ]
        return torch.stack(columns, dim=1)

    def _of_task(self, features: Tensor, head: Classifier, task: int, labels: Tensor) -> Tensor:
        labelled = labels != self.ignore_index
        labels = checked_by_device(labels.where(labelled, 0), head.tasks.sizes[task])
        # One sum a class, or one a sample, whichever are fewer: its class, and a sample's sum.
        count = min(head.tasks.sizes[task], len(labels))
        numbers = torch.arange(count, device=labels.device)
        classes, places = (labels, numbers) if count == len(labels) else (numbers, labels)
        anchors = unit_class_vectors(head, task, classes, features)
        sums, counts = self._log_sums(anchors, classes, features, labels, labelled)
        own = (anchors[places] * features).sum(-1) / self.temperature
        return (sums[places] - own).where(labelled & (counts[places] > 0), 0)

    def _log_sums(
        self, anchors: Tensor, classes: Tensor, features: Tensor, labels: Tensor, labelled: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logarithms of the sums over the batch, of each anchor (A, d), and their terms: (A,)."""
        if len(anchors) <= self.block_size:
            return self._block(anchors, classes, features, labels, labelled)
        parts = [
            checkpoint(self._block, a, c, features, labels, labelled, use_reentrant=False)
            for a, c in zip(
                anchors.split(self.block_size), classes.split(self.block_size), strict=True
            )
        ]
        sums, counts = zip(*parts, strict=True)
        return torch.cat(sums), torch.cat(counts)

    def _block(
        self, anchors: Tensor, classes: Tensor, features: Tensor, labels: Tensor, labelled: Tensor
    ) -> tuple[Tensor, Tensor]:
        scores = anchors @ features.mT / self.temperature
        terms = labelled.expand(scores.shape)
        if self.negatives_only:
            terms = terms & (labels != classes[:, None])
        # Not -inf: a sum without terms would have the gradient NaN.
        scores = scores.masked_fill(~terms, torch.finfo(scores.dtype).min / 2)
        return scores.logsumexp(1), terms.sum(1)

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        own = f"temperature={self.temperature:g}, block_size={self.block_size}"
        return f"{own}, {super().extra_repr()}"


class NTCE(_BatchContrast):
    r"""Normalised cross-entropy turned round: the softmax runs over the batch, not the classes.

    .. math:: L = \sum_t c_t \, \frac1{N_t} \sum_{i} -\log
              \frac{\exp(w_{y_i}^\top u_i / \tau)}{\sum_j \exp(w_{y_i}^\top u_j / \tau)},
              \qquad |u_i| = |w_k| = 1,

    with i and j over the samples of the batch that have a label of task t. Koromilas et al.,
    "Neural collapse by design" (ICML 2026), there with learned class vectors. With a fixed head
    only the class vectors of the batch's labels are needed: time
    :math:`O(M \min(M, K) d)` for M samples, and no optimiser state, however many classes there
    are.

    Features and class vectors are brought to unit length inside: a head's ``scale`` and ``bias``
    play no part. Its ``feature_norm`` is applied first.

    Args:
        temperature: :math:`\tau`.
        block_size: class vectors that are compared with the batch at a time. More need no more
            memory: blocks are computed again in the backward pass, and what is alive is
            ``block_size`` x M.
        task_weights: as in :class:`CompoundCrossEntropy`.
        ignore_index: as in :class:`CompoundCrossEntropy`. A sample without a label of a task is
            none of its negatives either.
        reduction: as in :class:`CompoundCrossEntropy`.

    Shape:
        as :class:`CompoundCrossEntropy`.

    Raises:
        ValueError: as :class:`CompoundCrossEntropy`, or if the temperature or block size is not
            positive.

    Note:
        The batch is that of one process: gather features and labels first where it should be that
        of all. Samples of the same class are in the sum, so the least loss of n of them is
        about :math:`\log n`. A batch of one sample has the loss 0, and no gradient. Cosines are
        computed in float32 at least, under autocast as well.

    Example:
        >>> import torch
        >>> from etf_heads import ETFHead
        >>> head = ETFHead(64, 10)
        >>> features = torch.randn(32, 64, requires_grad=True)
        >>> labels = torch.randint(10, (32,))
        >>> loss = NTCE(temperature=0.1)(features, head, labels)
        >>> loss.backward()
    """


class NONL(_BatchContrast):
    r"""Contrast of each sample's class vector with the batch's features of *other* classes.

    .. math:: L = \sum_t c_t \, \frac1{N_t} \sum_{i} -\log
              \frac{\exp(w_{y_i}^\top u_i / \tau)}
              {\sum_{j:\, y_j \ne y_i} \exp(w_{y_i}^\top u_j / \tau)},
              \qquad |u_i| = |w_k| = 1,

    with i and j over the samples of the batch that have a label of task t. Koromilas et al.,
    "Neural collapse by design" (ICML 2026): :class:`NTCE` with negatives only in the sum, so that
    the loss may be negative. Costs, normalisation, shapes and errors are those of :class:`NTCE`.

    Args:
        temperature: as in :class:`NTCE`.
        block_size: as in :class:`NTCE`.
        task_weights: as in :class:`CompoundCrossEntropy`.
        ignore_index: as in :class:`NTCE`.
        reduction: as in :class:`CompoundCrossEntropy`.

    Note:
        Where all labels of a task in a batch are one class there is no negative: the task counts
        as 0 then, without a gradient, like a task without labels.

    Example:
        >>> import torch
        >>> from etf_heads import CompoundETFHead
        >>> head = CompoundETFHead(64, {"left": 10, "right": 7})
        >>> features = torch.randn(32, 64, requires_grad=True)
        >>> labels = {"left": torch.randint(10, (32,)), "right": torch.full((32,), -100)}
        >>> per_task = NONL(temperature=0.1, reduction="task")(features, head, labels)
        >>> bool(per_task[1] == 0)
        True
    """

    negatives_only = True
