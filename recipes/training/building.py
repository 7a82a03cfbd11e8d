"""The network of a run, made of the parts that its settings name."""

from __future__ import annotations

from typing import Any

from recipes.data.images import ImageData, has_own_samples
from recipes.training.augmentation import Standardise
from recipes.training.backbones import backbone
from recipes.training.heads import HEADS, HeadRequest, is_observing
from recipes.training.loss import make_loss
from recipes.training.network import Network
from recipes.training.settings import OF_COSINES, RunConfig, Settings


def build_network(config: RunConfig, data: ImageData) -> Network:
    """An untrained network for a data set; random numbers come from the global generator."""
    _, channels, height, width = data.train.images.shape
    standardise = Standardise(data.train.images)
    shape = (channels, height, width)
    features = backbone(config.backbone)(shape, config.features, config.width)
    head = HEADS[config.head](head_request(config, data))
    if is_observing(head) and config.loss not in _losses_of_observing(head):
        raise ValueError(
            f"head={config.head!r} observes labels as it makes its logits, whose loss is the "
            f"cross-entropy: loss={config.loss!r} goes with another head"
        )
    for name in ("assign", "align"):
        if getattr(config, name) and data.label_sets:
            raise ValueError(f"{name}={getattr(config, name)}: goes by single labels, not by sets")
    return Network(standardise, features, head, make_loss(config, data), data.tasks)


def _losses_of_observing(head: Any) -> tuple[str, ...]:
    """The cross-entropy; and losses of cosines, where the labels may be observed before them."""
    alone = hasattr(head, "observe") and not head.gradient
    return ("cross-entropy", *OF_COSINES) if alone else ("cross-entropy",)


def head_request(config: Settings, data: ImageData) -> HeadRequest:
    """The request for the head of a run."""
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
