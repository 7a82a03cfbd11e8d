"""A network as these recipes train it: standardised images, a backbone, a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recipes.data import ImageData, ImageSet, has_own_samples
from recipes.training.augmentation import Standardise
from recipes.training.backbones import backbone
from recipes.training.heads import HEADS, OBSERVING, HeadRequest
from recipes.training.settings import RunConfig, Settings


class Network(nn.Module):
    """Images to a dict of logits.

    Attributes:
        head: the classifier; the rest of the network is the same whichever it is.
        logit_share: what the logits of training are multiplied by; those of evaluation are whole.
    """

    logit_share = 1.0

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        super().__init__()
        self.standardise = Standardise(data.train.images)
        _, channels, height, width = data.train.images.shape
        self.backbone = backbone(config.backbone)(
            (channels, height, width), config.features, config.width
        )
        self.tasks = tuple(data.tasks)
        self.head = HEADS[config.head](head_request(config, data))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """(B, C, H, W) uint8 to logits (B, K_t) by task; observing heads take labels (B, T)."""
        return self.classify(self.features(images), labels)

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 to what all tasks share, (B, d), not normalised."""
        return self.backbone(self.standardise(images))

    def classify(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The rest of the way to the logits."""
        if labels is not None and isinstance(self.head, OBSERVING):
            logits = self.head(features, dict(zip(self.tasks, labels.unbind(1), strict=True)))
        else:
            logits = self.head(features)
        if self.training and self.logit_share < 1:
            return {task: self.logit_share * z for task, z in logits.items()}
        return logits

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and the features as the class vectors meet them: normalised, (B, d)."""
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


def head_request(config: Settings, data: ImageData) -> HeadRequest:
    """What the head of a run is made for."""
    return HeadRequest(
        features=config.features,
        tasks=data.tasks,
        labels=data.train.labels,
        own_samples=has_own_samples(data.train.labels),
        scale=config.scale,
        learn_scale=config.learn_scale,
        bias=config.bias,
        feature_norm=config.feature_norm,
    )
