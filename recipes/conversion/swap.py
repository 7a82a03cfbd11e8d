"""A trained network with its learned head replaced by a fixed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from etf_heads import CompoundETFHead
from etf_heads.heads import from_features, from_linear
from recipes.data.images import ImageData
from recipes.training.engine import MakeNetwork
from recipes.training.measure import BATCH
from recipes.training.network import Network
from recipes.training.result import trained_network
from recipes.training.settings import RunConfig

KEPT = "kept"
"""The control: the learned head stays, and is trained on."""

Conversion = Callable[[Network, ImageData], nn.Module]
"""Makes the head to put in the place of a trained network's learned one."""


def _from_features(network: Network, data: ImageData) -> nn.Module:
    return from_features(_features(network, data), data.tasks, scale=_scale(network))


def _naive(network: Network, data: ImageData) -> nn.Module:
    width = network.head.weight.shape[1]
    return CompoundETFHead(width, data.tasks, bias=True, scale=_scale(network))


CONVERSIONS: dict[str, Conversion] = {
    "from_linear": lambda network, _: from_linear(network.head.linears()),
    "from_features": _from_features,
    "CompoundETFHead": _naive,
}
"""By name; the last knows nothing of the network but how long its class vectors are."""


def swapped(trained: RunConfig, way: str) -> MakeNetwork:
    """The network of a finished run, converted, for :func:`recipes.training.engine.train`.

    Args:
        trained: the finished run, of a learned head.
        way: one of ``CONVERSIONS``, or ``KEPT``.
    """

    def make(_: RunConfig, data: ImageData) -> Network:
        network = trained_network(trained, data)
        if way != KEPT:
            head = CONVERSIONS[way](network, data)
            if network.head.norm is not None:  # it stays where it was, with its statistics
                network.backbone = nn.Sequential(network.backbone, network.head.norm)
            network.head = head
        return network

    return make


def _scale(network: Network) -> float:
    """The length of class vectors that keeps the size of the trained logits."""
    return float(from_linear(network.head.linears()).scale)


@torch.no_grad()
def _features(network: Network, data: ImageData) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised features and labels of the training images, in evaluation mode."""
    network.eval()
    for images, labels in zip(
        data.train.images.split(BATCH), data.train.labels.split(BATCH), strict=True
    ):
        yield network.features_and_logits(images)[0], labels
    network.train()
