"""The handwritten digits that ship inside scikit-learn, alone and two in an image: no download."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from recipes.data.images import ImageData
from recipes.data.labelled import labelled, one_task
from recipes.data.options import DataOptions
from recipes.data.pairs import beside, composed, side_by_side, split_by_class
from recipes.data.pictures import Pictures
from recipes.data.sampling import fewer_classes

TRAIN_BINARY = 4000
"""Training images of :func:`binary_digits`, whatever the share."""

DEFAULTS = DataOptions()


def single_digits(options: DataOptions = DEFAULTS) -> ImageData:
    """The 1,797 handwritten digits that ship inside scikit-learn, 8 x 8 pixels, one task.

    One in three of each digit is held out, so that a class has about 120 training images.
    """
    pictures = digit_pictures(test_share=1 / 3)
    return labelled(*pictures, {"digit": 10}, options, flip=False, labels_of=one_task)


@cache
def multi_digits(options: DataOptions = DEFAULTS) -> ImageData:
    """Two-digit images from the 1,797 handwritten digits that ship inside scikit-learn.

    The scans (8 x 8) are split first, one in five held out of each digit, and only then composed,
    so no scan is in both train and test. Unless options say otherwise, each of the 100 label pairs
    has the same number of images, and each image is another pair of scans: 10,000 for training,
    2,000 for testing.
    """
    train, test = digit_pictures()
    return composed(
        train,
        test,
        fewer_classes({"left": 10, "right": 10}, options),
        options,
        beside,
        train_images=10_000,
        test_images=2_000,
        shift=1,
    )


@cache
def binary_digits(share: float) -> ImageData:
    """Two-digit images with two binary tasks whose labels agree in a stated share of the images.

    Each task asks whether its digit is 5 or more. Half of the images have either label of either
    task whatever the share, so that nothing but the correlation changes with it: 4,000 images for
    training. The 2,000 test images, 500 of each label pair, are the same for every share; what
    they say of agreeing and of disagreeing images gives the accuracy at any share.

    Args:
        share: p, the share of training images whose two labels are equal, in (0, 1).

    Raises:
        ValueError: if the share of 4,000 images is no even number of images, or none or all.
    """
    equal = share * TRAIN_BINARY / 2
    if abs(equal - round(equal)) > 1e-6 or not 0 < share < 1:
        raise ValueError(
            f"share={share}: {TRAIN_BINARY} training images times the share must be an even "
            "number, neither 0 nor all of them"
        )
    equal, different = round(equal), TRAIN_BINARY // 2 - round(equal)
    scans, train_scans, test_scans = _digit_scans(test_share=0.2)
    return ImageData(
        tasks={"left": 2, "right": 2},
        train=side_by_side(
            scans, _halves(train_scans), torch.tensor([[equal, different], [different, equal]])
        ),
        test=side_by_side(scans, _halves(test_scans), images_per_pair=500),
        shift=1,
    )


def digit_pictures(test_share: float = 0.2) -> tuple[Pictures, Pictures]:
    """Scans of single digits for training, and those of testing."""
    scans, *parts = _digit_scans(test_share)
    train, test = (_of_classes(scans, own) for own in parts)
    return train, test


def _digit_scans(test_share: float) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """All scans, and those of each digit that are for training and for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)
    return scans, *split_by_class(torch.from_numpy(digits.target), test_share)


def _of_classes(scans: Tensor, by_digit: list[Tensor]) -> Pictures:
    """The scans of each digit, in the order in which they are listed."""
    labels = torch.cat([torch.full_like(own, k) for k, own in enumerate(by_digit)])
    return Pictures.in_memory(scans[torch.cat(by_digit)].unsqueeze(1), labels)


def _halves(by_digit: list[Tensor]) -> list[Tensor]:
    """Scans of digits below 5, and of the others."""
    return [torch.cat(by_digit[:5]), torch.cat(by_digit[5:])]
