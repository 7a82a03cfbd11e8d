"""The loss of training: of features, head and labels, task by task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads.losses import (
    NONL,
    NTCE,
    CentreCosine,
    CompoundCrossEntropy,
    CompoundFocal,
    CompoundSquaredError,
    LogitAdjustedCrossEntropy,
    NormalizedCrossEntropy,
    PickAllLabelsCrossEntropy,
)
from recipes.data.images import NO_LABEL, ImageData
from recipes.training.settings import OF_COSINES, OF_LOGITS, Settings

TaskLosses = nn.Module
"""Called with features (B, d), a head and labels (B, T), or label sets (B, K) of a single task;
returns the mean loss of each task, (T,), over the samples that have a label of it, and 0 where none
has."""


def make_loss(settings: Settings, data: ImageData) -> TaskLosses:
    """The loss that settings ask for, on these training images.

    Raises:
        ValueError: if the loss does not take its number, a class has no image where its
            frequency is needed, or the loss and the data do not both have label sets.
    """
    name = settings.loss
    if (name == "pick-all-labels") != data.label_sets:
        raise ValueError(
            f"loss={name!r} with data={settings.data!r}: loss=pick-all-labels and data of label "
            "sets (label-sets-digits, label-sets-mnist) go together"
        )
    if name == "pick-all-labels":
        return PickAllLabelsCrossEntropy(reduction="task")
    if name == "centre-cosine":
        return CentreCosine(reduction="task")
    if name in OF_COSINES:
        kinds: dict[str, type[NTCE | NONL | NormalizedCrossEntropy]] = {
            "normalized": NormalizedCrossEntropy,
            "ntce": NTCE,
            "nonl": NONL,
        }
        return kinds[name](settings.temperature, reduction="task")
    given = settings.loss_parameter
    number = OF_LOGITS.get(name, 0.0) if given is None else given
    if name in ("focal", "squared-error"):
        kind = CompoundFocal if name == "focal" else CompoundSquaredError
        return kind(number, reduction="task")
    if name == "logit-adjusted":
        return LogitAdjustedCrossEntropy(class_counts(data), number, reduction="task")
    return CompoundCrossEntropy(label_smoothing=number, reduction="task")


def class_counts(data: ImageData) -> dict[str, Tensor]:
    """Training images of each class, (K_t,) by task."""
    columns = zip(data.tasks.items(), data.train.labels.unbind(1), strict=True)
    return {
        task: torch.bincount(labels[labels != NO_LABEL], minlength=classes)
        for (task, classes), labels in columns
    }


def mean_cross_entropies(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """The same losses (T,) of logits (B, K_t) by task, where these are needed anyway."""
    return summed_cross_entropies(logits, labels) / (labels != NO_LABEL).sum(0).clamp(min=1)


def summed_pick_all_labels(logits: Tensor, sets: Tensor) -> Tensor:
    """Sum () of the losses with label sets, of logits (B, K) and these as 0 and 1 (B, K)."""
    return (sets.sum(1) * logits.logsumexp(1) - (sets * logits).sum(1)).sum()


def summed_cross_entropies(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Sums of the cross-entropy over the samples that have a label of each task, (T,)."""
    columns = zip(logits.values(), labels.unbind(1), strict=True)
    return torch.stack(
        [F.cross_entropy(z, y, ignore_index=NO_LABEL, reduction="sum") for z, y in columns]
    )
