"""The loss of training: of features, head and labels, task by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads.losses import NONL, NTCE, CompoundCrossEntropy, NormalizedCrossEntropy
from recipes.data.images import NO_LABEL
from recipes.training.settings import Settings

TaskLosses = CompoundCrossEntropy | NormalizedCrossEntropy | NTCE | NONL
"""Called with features (B, d), a head and labels (B, T); returns the mean loss of each task, (T,),
over the samples that have a label of it, and 0 where none has."""


def make_loss(settings: Settings) -> TaskLosses:
    """The loss that settings ask for."""
    if settings.loss == "cross-entropy":
        return CompoundCrossEntropy(reduction="task")
    kinds: dict[str, Callable[..., TaskLosses]] = {
        "normalized": NormalizedCrossEntropy,
        "ntce": NTCE,
        "nonl": NONL,
    }
    return kinds[settings.loss](settings.temperature, reduction="task")


def mean_cross_entropies(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """The same losses (T,) of logits (B, K_t) by task, where these are needed anyway."""
    return summed_cross_entropies(logits, labels) / (labels != NO_LABEL).sum(0).clamp(min=1)


def summed_cross_entropies(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Sums of the cross-entropy over the samples that have a label of each task, (T,)."""
    columns = zip(logits.values(), labels.unbind(1), strict=True)
    return torch.stack(
        [F.cross_entropy(z, y, ignore_index=NO_LABEL, reduction="sum") for z, y in columns]
    )
