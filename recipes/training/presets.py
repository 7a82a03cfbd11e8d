"""Named settings to start from, and the command line over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import tyro

from recipes.training.settings import CompareConfig, RunConfig, Settings


def _full_size(name: str, text: str, **settings: Any) -> tuple[str, RunConfig]:
    """A preset of the size that papers on neural collapse train at.

    ResNet-18, its 512 features without projection, and 200 epochs, long enough for the terminal
    phase. AdamW takes the place of the usual SGD with momentum (learning rate 0.1, weight decay
    5e-4; Papyan, Han and Donoho, PNAS 2020; Zhu et al., NeurIPS 2021): lr times weight_decay, by
    which each step shrinks the weights, is theirs. These numbers were not tuned.
    """
    full: dict[str, Any] = {
        "backbone": "resnet18",
        "width": 64,
        "features": 512,
        "epochs": 200,
        "batch_size": 128,
        "lr": 1e-3,
        "weight_decay": 0.05,
    }
    return text, RunConfig(preset=name, data=name, **(full | settings))


PRESETS: dict[str, tuple[str, RunConfig]] = {
    "multi-digits": (
        "Two handwritten digits in one image, a ten-class task each: no download, seconds a run.",
        RunConfig(preset="multi-digits", data="multi-digits"),
    ),
    "glyphs": (
        "Characters rendered from this machine's fonts: 1,000 classes and more, no download.",
        RunConfig(
            preset="glyphs",
            data="glyphs",
            image_size=24,
            features=64,
            feature_norm="unit",
            scale=16.0,
            temperature=0.1,
            weight_decay=0.1,
        ),
    ),
} | {
    name: _full_size(name, text, **settings)
    for name, text, settings in (
        ("multi-mnist-10-10", "Two MNIST digits in one image, a ten-class task each.", {}),
        ("multi-cifar10-10-10", "Two CIFAR-10 images in one, a ten-class task each.", {}),
        ("cifar100", "One task of 100 classes.", {}),
        ("cifar100-cross-10x10", "CIFAR-100, two ten-class tasks on every image.", {}),
        ("cifar100-split-5x20", "CIFAR-100, five tasks of 20 classes with their own samples.", {}),
        (
            "celeba",
            "Faces, a binary task an attribute.",
            {"attributes": ("Smiling", "Mouth_Slightly_Open")},
        ),
        ("image-folder", "Any folder of images, with any tasks made of its classes.", {}),
    )
}


COMPARED: dict[str, tuple[str, ...]] = {
    "glyphs": ("learned", "learned-unit", "prototypes", "spherical", "spherical-chosen")
}
"""Heads to compare by preset, where those of :class:`CompareConfig` have too few dimensions."""

C = TypeVar("C", bound=Settings)


def parse_config(kind: type[C], args: Sequence[str] | None = None) -> C:
    """The configuration that a command line asks for: ``PRESET --field value ...``.

    Args:
        kind: RunConfig, or CompareConfig.
        args: the arguments; by default those of this process.
    """
    shared = [f.name for f in fields(Settings)]
    presets = {}
    for name, (text, run) in PRESETS.items():
        given = {field: getattr(run, field) for field in shared}
        if kind is CompareConfig and name in COMPARED:
            given["heads"] = COMPARED[name]
        presets[name] = text, kind(**given)
    description = (kind.__doc__ or "").partition("\n")[0]
    return tyro.extras.overridable_config_cli(presets, description=description, args=args)
