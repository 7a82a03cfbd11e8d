"""A network as these recipes train it: standardised images, a backbone, a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recipes.augment import Standardise
from recipes.backbones import BACKBONES
from recipes.config import RunConfig
from recipes.data import ImageData
from recipes.heads import HEADS


class Network(nn.Module):
    """Images to a dict of logits.

    Attributes:
        head: the classifier; the rest of the network is the same whichever it is.
    """

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        super().__init__()
        self.standardise = Standardise(data.train.images)
        _, channels, height, width = data.train.images.shape
        self.backbone = BACKBONES[config.backbone](
            (channels, height, width), config.features, config.width
        )
        self.head = HEADS[config.head](
            config.features,
            data.tasks,
            labels=data.train.labels,
            scale=config.scale,
            feature_norm=config.feature_norm,
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) uint8 to logits (B, K_t) by task."""
        return self.head(self.backbone(self.standardise(images)))

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and the features as the class vectors meet them: normalised, (B, d)."""
        features = self.backbone(self.standardise(images))
        logits = self.head(features)
        norm = self.head.norm
        return (features if norm is None else norm(features)), logits
