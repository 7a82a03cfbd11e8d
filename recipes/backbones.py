"""Networks that end in a feature vector; the head is put on by :class:`recipes.network.Network`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def cnn(image_shape: tuple[int, int, int], features: int, width: int) -> nn.Sequential:
    """Three convolutions and a projection to features that can have any sign.

    No ReLU follows the projection: the class vectors of a simplex ETF point in all directions, and
    non-negative features could not follow them.

    Args:
        image_shape: (channels, height, width).
        features: size of the feature vector.
        width: channels of the first convolution; the others have twice as many.
    """
    channels, height, image_width = image_shape
    return nn.Sequential(
        *_block(channels, width),
        nn.MaxPool2d(2),
        *_block(width, 2 * width),
        nn.MaxPool2d(2),
        *_block(2 * width, 2 * width),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (image_width // 4), features),
    )


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


Backbone = Callable[[tuple[int, int, int], int, int], nn.Module]
"""(image shape, features, width) -> a module from images (B, C, H, W) to features (B, features)."""

BACKBONES: dict[str, Backbone] = {"cnn": cnn}
"""Backbones by name."""
