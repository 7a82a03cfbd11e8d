"""Savings that papers report, counted here: on the architectures they name, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from etf_heads import ClassMeanHead, ETFHead, narrow_features, replace_head
from etf_heads.surgery import find_heads, model_costs

HOFFER = "Hoffer, Hubara and Soudry, Fix your classifier (ICLR 2018)"
ZHU = "Zhu et al., A geometric analysis of neural collapse (NeurIPS 2021)"


class ShuffleNetV1(nn.Module):
    """ShuffleNet 1x with three groups (Zhang et al., 2018), for its shapes: it has no forward.

    As in the PyTorch code of that time: convolutions have biases, and all but the first a
    BatchNorm; the first pointwise one is not grouped; bottlenecks have a quarter of the channels
    that a unit makes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, stride=2, padding=1)
        units, inputs = [], 24
        for channels, repeats in ((240, 4), (480, 8), (960, 4)):
            for unit in range(repeats):
                # The first unit's shortcut brings its inputs along.
                units.append(_shuffle_unit(inputs, channels - inputs if unit == 0 else channels))
                inputs = channels
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(inputs, num_classes)


def _shuffle_unit(inputs: int, outputs: int) -> nn.Sequential:
    middle = outputs // 4
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 1, groups=1 if inputs == 24 else 3),
        nn.BatchNorm2d(middle),
        nn.Conv2d(middle, middle, 3, groups=middle),
        nn.BatchNorm2d(middle),
        nn.Conv2d(middle, outputs, 1, groups=3),
        nn.BatchNorm2d(outputs),
    )


def _torchvision(name: str) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        from torchvision.models import get_model  # noqa: PLC0415 (an extra)

        return get_model(name, num_classes=classes)

    return build


def _small_image_stem(name: str) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        model = _torchvision(name)(classes)
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        return model

    return build


def _fix(model: nn.Module, classes: int) -> None:
    (name,) = _classifier(model)
    replace_head(model, lambda d: _fixed_head(d, classes), at=name)


def _fixed_head(features: int, classes: int) -> nn.Module:
    if classes <= features + 1:
        return ETFHead(features, classes)
    return ClassMeanHead(features, classes)  # of any width, and without parameters too


def _narrow_and_fix(model: nn.Module, classes: int) -> None:
    _fix(narrow_features(model, classes), classes)


def _classifier(model: nn.Module) -> Mapping[str, Any]:
    return find_heads(model, "fc" if hasattr(model, "fc") else None)


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
        source: the paper.
        architecture: its name.
        build: from K to the model.
        classes: K.
        change: what is done to the model.
        percent: of all parameters that this saves, as published.
    """

    source: str
    architecture: str
    build: Callable[[int], nn.Module]
    classes: int
    change: Callable[[nn.Module, int], None]
    percent: float


_RESNET18, _RESNET50 = _torchvision("resnet18"), _torchvision("resnet50")
_SMALL18, _SMALL50 = _small_image_stem("resnet18"), _small_image_stem("resnet50")
FIGURES = (
    Published(HOFFER, "ResNet-50", _RESNET50, 1000, _fix, 8.01),
    Published(HOFFER, "DenseNet-169", _torchvision("densenet169"), 1000, _fix, 11.76),
    Published(HOFFER, "ShuffleNet v1, 1x, 3 groups", ShuffleNetV1, 1000, _fix, 52.56),
    Published(ZHU, "ResNet-18, d = K", _RESNET18, 10, _narrow_and_fix, 20.7),
    Published(ZHU, "ResNet-18 for 32 x 32, d = K", _SMALL18, 10, _narrow_and_fix, 20.7),
    Published(ZHU, "ResNet-50, d = K", _RESNET50, 10, _narrow_and_fix, 4.5),
    Published(ZHU, "ResNet-50 for 32 x 32, d = K", _SMALL50, 10, _narrow_and_fix, 4.5),
)


def published() -> list[dict[str, Any]]:
    """Each published figure beside ours.

    ``percent`` is what is saved of all parameters; ``weights_percent`` leaves the classifier's
    biases out, as Hoffer et al. count. ``simplex_etf`` is False where K > d + 1: there another
    fixed head stands in.
    """
    return [_row(figure) for figure in FIGURES]


def _row(figure: Published) -> dict[str, Any]:
    with torch.device("meta"):
        model = figure.build(figure.classes)
        before = model_costs(model, "SGD").parameters
        (classifier,) = _classifier(model).values()
        figure.change(model, figure.classes)
    (head,) = _classifier(model).values()
    saved = before - model_costs(model, "SGD").parameters
    return {
        "source": figure.source,
        "architecture": figure.architecture,
        "classes": figure.classes,
        "features": head.in_features,
        "simplex_etf": isinstance(head, ETFHead),
        "parameters": before,
        "saved": saved,
        "percent": 100 * saved / before,
        "weights_percent": 100 * (saved - classifier.bias.numel()) / before,
        "published_percent": figure.percent,
    }
