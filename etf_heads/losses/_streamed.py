"""Cross-entropy of a head of many classes, without logits."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import TypeIs

from etf_heads._labels import checked_by_device
from etf_heads._precision import at_least_float32
from etf_heads.codes import Code
from etf_heads.heads import FixedHead


def streams(head: object) -> TypeIs[FixedHead]:
    """Whether :func:`streamed_cross_entropy` is for this head, here and now."""
    transformed = torch._C._are_functorch_transforms_active()  # they need every operation
    return isinstance(head, FixedHead) and head.streams and not transformed


def streamed_cross_entropy(
    coordinates: Tensor, code: Code, labels: Tensor, *, ignore_index: int, smoothing: float
) -> Tensor:
    r"""Cross-entropies of each task, in memory that no number of classes enters.

    With scores z and the smoothing share ε a loss is

    .. math:: \log \sum_k e^{z_k} - (1 - ε)\, z_y - ε\, \bar z

    The first term is streamed (:meth:`~etf_heads.codes.BasesCode.logsumexp`), the second needs
    the class vectors of the labels, and in the third the two ends of each line cancel.

    Args:
        coordinates: of the features, of which the code makes the logits: (..., columns).
        code: of a head of which :func:`streams` holds.
        labels: (samples, T).
        ignore_index: the label of samples that have none.
        smoothing: share of the target that is spread evenly over all classes.

    Returns:
        (samples, T), of float32 at least, zero where there is no label.
    """
    coordinates = coordinates.flatten(0, -2)
    coordinates = coordinates.to(at_least_float32(coordinates.dtype))
    losses = []
    for task, rows in enumerate(code.tasks.slices):
        labelled = labels[:, task] != ignore_index
        own = torch.where(labelled, labels[:, task], 0)
        classes = checked_by_device(own, rows.stop - rows.start) + rows.start
        target = code.vectors(classes, dtype=coordinates.dtype)
        if smoothing:
            mean = code.row_sum(task).to(target) / (rows.stop - rows.start)
            target = target.lerp(mean, smoothing)
        loss = code.logsumexp(coordinates, task) - (coordinates * target).sum(-1)
        losses.append(torch.where(labelled, loss, 0))
    return torch.stack(losses, dim=-1)
