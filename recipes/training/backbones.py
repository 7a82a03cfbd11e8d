"""Networks that end in a feature vector, by name.

No ReLU stands between a projection and the head: the class vectors of a simplex ETF point in all
directions, and non-negative features could not follow them. The large backbones have features of
their own; a projection follows them only where another size is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]
"""(channels, height, width) of an image."""

TIMM = "timm/"
"""Prefix of the names of timm's models."""


def cnn(image_shape: Shape, features: int, width: int) -> nn.Sequential:
    """Three convolutions and a projection, for images of at least 4 x 4 pixels.

    Args:
        image_shape: (channels, height, width).
        features: size of the feature vector.
        width: channels of the first convolution; the others have twice as many.
    """
    from torch import nn

    channels, height, image_width = image_shape
    _at_least("cnn", image_shape, 4)
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
    from torch import nn

    return (
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def mlp(
    image_shape: Shape,
    features: int,
    width: int,
    *,
    depth: int,
    norm: bool = True,
    relu: bool = True,
) -> nn.Sequential:
    """Fully connected layers of all pixels, each with batch normalisation and ReLU: Linear-BN-ReLU.

    A projection follows only where features are of another size than the layers.

    Args:
        image_shape: (channels, height, width).
        features: size of the feature vector.
        width: units of each layer.
        depth: number of layers.
        norm: whether they are batch-normalised.
        relu: whether they have ReLU.
    """
    from torch import nn

    network = nn.Sequential(nn.Flatten())
    for units in [math.prod(image_shape), *[width] * (depth - 1)]:
        linear = nn.Linear(units, width, bias=not norm)
        normed = [nn.BatchNorm1d(width)] if norm else []
        network.append(nn.Sequential(linear, *normed, *[nn.ReLU()] * relu))
    return network if features == width else network.append(nn.Linear(width, features))


def vgg(image_shape: Shape, features: int, width: int, *, layers: str) -> nn.Module:
    """The convolutions of a VGG with batch normalisation, averaged over what is left of the image.

    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition"
    (ICLR 2015), without its hidden fully connected layers. Images of at least 32 x 32 pixels.

    Args:
        image_shape: (channels, height, width).
        features: size of the feature vector.
        width: channels of the first convolution; 64 is the original, the features of 8 times as
            many need no projection.
        layers: "A" for 11, "B" for 13.
    """
    from torch import nn
    from torchvision.models.vgg import cfgs, make_layers

    _at_least("vgg", image_shape, 32)
    plan = [step if step == "M" else int(step) * width // 64 for step in cfgs[layers]]
    network = nn.Sequential(
        *make_layers(plan, batch_norm=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    network[0] = nn.Conv2d(image_shape[0], width, 3, padding=1)
    for layer in network:
        if isinstance(layer, nn.Conv2d):  # as torchvision's VGG starts
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None  # noqa: S101
            nn.init.zeros_(layer.bias)
    return _projected(network, image_shape, features)


def resnet(image_shape: Shape, features: int, width: int, *, layers: int) -> nn.Module:
    """A ResNet for small images: its first convolution is 3 x 3 with stride 1, without pooling.

    He et al., "Deep residual learning for image recognition" (CVPR 2016).

    Args:
        image_shape: (channels, height, width).
        features: size of the feature vector.
        width: channels of the first stage; 64 is the original, the features of 8 times as many
            need no projection.
        layers: 18 or 34.

    Raises:
        ValueError: if a stage has fewer than 8 channels.
    """
    import timm
    from torch import nn

    if width < 8:  # github.com/uxlfoundation/oneDNN/issues/6035: in its strided 1 x 1 convolutions
        raise ValueError(
            f"width={width}: a ResNet needs at least 8, since on CPUs with AVX2 convolutions of "
            "fewer channels corrupt memory; or choose --backbone cnn"
        )
    stages = tuple(width * factor for factor in (1, 2, 4, 8))
    network: Any = timm.create_model(f"resnet{layers}", num_classes=0, channels=stages)
    stem = nn.Conv2d(image_shape[0], network.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = stem, nn.Identity()
    return _projected(network, image_shape, features)


def from_timm(image_shape: Shape, features: int, width: int, *, name: str) -> nn.Module:
    """Any model of timm as it stands there, untrained, without its classifier.

    Args:
        image_shape: (channels, height, width).
        features: size of the feature vector.
        width: has no effect; timm's names say how wide a model is.
        name: of the model in timm.

    Raises:
        ValueError: if it cannot be made for images of this size.
    """
    import timm

    del width
    options: dict[str, Any] = {"num_classes": 0, "in_chans": image_shape[0]}
    try:
        try:
            network = timm.create_model(name, img_size=image_shape[1:], **options)
        except TypeError:  # a model that takes images of any size has no img_size
            network = timm.create_model(name, **options)
        return _projected(network, image_shape, features)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"backbone={TIMM + name!r} cannot take images of shape {image_shape}: {error}"
        ) from error


def _projected(network: nn.Module, image_shape: Shape, features: int) -> nn.Module:
    """The network, and a projection behind it if its features are not of this size."""
    import torch
    from torch import nn

    with torch.no_grad():
        found = network.eval()(torch.zeros(1, *image_shape)).shape[1:]
    network.train()
    if len(found) != 1:
        raise ValueError(f"one feature vector an image is needed, found is the shape {found}")
    if found[0] == features:
        return network
    return nn.Sequential(network, nn.Linear(found[0], features))


def _at_least(name: str, image_shape: Shape, side: int) -> None:
    if min(image_shape[1:]) < side:
        raise ValueError(
            f"backbone {name} needs images of at least {side} x {side} pixels, these have "
            f"{image_shape[2]} x {image_shape[1]}: choose another --backbone"
        )


Backbone = Callable[[Shape, int, int], "nn.Module"]
"""(image shape, features, width) -> a module from images (B, C, H, W) to features (B, features)."""

BACKBONES: dict[str, Backbone] = {
    "cnn": cnn,
    "vgg11": partial(vgg, layers="A"),
    "vgg13": partial(vgg, layers="B"),
    "resnet18": partial(resnet, layers=18),
    "resnet34": partial(resnet, layers=34),
}
"""Backbones by name; :func:`backbone` knows those of timm as well, and ``mlp`` of any depth."""

MLP = re.compile(r"mlp([1-9]\d?)(-no-norm|-no-relu)?")


def backbone(name: str) -> Backbone:
    """A backbone by its name: one of ``BACKBONES``, ``mlpDEPTH``, or ``timm/NAME``.

    Raises:
        ValueError: if there is none of this name.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if found := MLP.fullmatch(name):
        depth, without = found.groups()
        return partial(
            mlp, depth=int(depth), norm=without != "-no-norm", relu=without != "-no-relu"
        )
    if name.startswith(TIMM):
        import timm

        if timm.is_model(name.removeprefix(TIMM)):
            return partial(from_timm, name=name.removeprefix(TIMM))
    raise ValueError(
        f"backbone={name!r}: choose from {', '.join(BACKBONES)}, mlpDEPTH with 1 to 99 "
        f"layers (also mlpDEPTH-no-norm, mlpDEPTH-no-relu), and {TIMM}NAME of any model in "
        "timm.list_models()"
    )
