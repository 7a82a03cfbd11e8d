"""A network as these recipes train it: standardised images, a backbone, a head, a loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads.losses import CompoundCrossEntropy
from recipes.data.images import ImageSet
from recipes.training.heads import is_observing
from recipes.training.loss import TaskLosses, mean_cross_entropies


class Network(nn.Module):
    """Images to the losses of their labels, or to logits.

    Args:
        standardise: uint8 images (B, C, H, W) to floats.
        backbone: these to features (B, d), which all tasks share.
        head: these to a dict of logits (B, K_t); the rest is the same whichever it is.
        loss: features, head and labels (B, T) to losses (T,); or label sets (B, K) to (1,).
        tasks: their names, in the order of the labels.

    Attributes:
        logit_share: what the logits of training are multiplied by; those of evaluation are whole.
    """

    logit_share = 1.0
    head: Any  # fixed and learned heads have no class in common
    standardise: nn.Module

    def __init__(
        self,
        standardise: nn.Module,
        backbone: nn.Module,
        head: nn.Module,
        loss: TaskLosses,
        tasks: Iterable[str],
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.standardise, self.backbone, self.head, self.loss = standardise, backbone, head, loss
        self.of_logits = isinstance(loss, CompoundCrossEntropy)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, labels: Tensor | None = None, *, observe: bool = True) -> Any:
        """Images (B, C, H, W) and labels (B, T) to the mean loss of each task, (T,).

        Without labels, to a dict of logits (B, K_t).
        """
        features = self.features(images)
        if labels is None:
            return self.head(features)
        return self.losses(features, labels, observe=observe)

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 to what all tasks share, (B, d), not normalised."""
        features: Tensor = self.backbone(self.standardise(images))
        return features

    def losses(self, features: Tensor, labels: Tensor, *, observe: bool = True) -> Tensor:
        """Features (B, d) and labels (B, T) to the mean loss of each task, (T,).

        A loss that knows the head needs no logits. They are made where they are to be multiplied,
        and for the cross-entropy of heads that observe the labels of a batch before they classify
        it.
        """
        observing = is_observing(self.head)
        columns = dict(zip(self.tasks, labels.unbind(1), strict=True)) if observing else {}
        if self.logit_share == 1 and not (observing and self.of_logits):
            if observing and observe and self.training:
                self.head.observe(features, columns)
            return self.loss(features, self.head, labels)
        logits = self.head(features, columns) if observing and observe else self.head(features)
        shared = {task: self.logit_share * z for task, z in logits.items()}
        return mean_cross_entropies(shared, labels)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features as the class vectors meet them, normalised, (B, d), and the logits."""
        features = self.features(images)
        logits = self.head(features)
        norm = self.head.norm
        return (features if norm is None else norm(features)), logits


@torch.inference_mode()
def evaluate(network: Network, data: ImageSet) -> tuple[Tensor, Tensor]:
    """Features as class vectors meet them (N, d), and logits (N, T, K) of tasks of one size."""
    batches = [network.features_and_logits(images) for images in data.images.split(1000)]
    logits = [torch.stack(list(z.values()), dim=1) for _, z in batches]
    return torch.cat([features for features, _ in batches]), torch.cat(logits)
