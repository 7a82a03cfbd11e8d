"""Image sets: uint8 tensors that stay in memory, on the device that trains.

A data set is read once, moved to the device once, and indexed there a batch at a time; no
per-sample Python runs while training. A new one is a function that returns an :class:`ImageData`
and a line in ``DATASETS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Shares of images with equal labels for which :func:`binary_digits` has a name."""

TRAIN_BINARY = 4000
"""Training images of :func:`binary_digits`, whatever the share."""


@dataclass(frozen=True)
class ImageSet(Dataset[tuple[Tensor, Tensor]]):
    """Images with one label a task.

    Attributes:
        images: uint8 (N, channels, height, width).
        labels: int64 (N, T).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch at once; DataLoader prefers this to one ``__getitem__`` a sample."""
        chosen = torch.tensor(indices).to(self.images.device, non_blocking=True)
        return self.images[chosen], self.labels[chosen]

    def to(self, device: torch.device) -> ImageSet:
        """The same set on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """A data set: its tasks, and training and test images.

    Attributes:
        tasks: number of classes of each task, in the order of the label columns.
        train: what is learned from.
        test: what is held out.
        shift: training images are moved by up to this many pixels each way.
    """

    tasks: dict[str, int]
    train: ImageSet
    test: ImageSet
    shift: int

    def to(self, device: torch.device) -> ImageData:
        """The same data on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def train_loader(data: ImageSet, batch_size: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Shuffled whole batches, for Accelerate to prepare.

    The loader has a generator of its own since it draws a seed at the start of every epoch: from
    the global generator, a run resumed in mid-epoch would draw once more than one that ran through,
    and dropout would diverge.
    """
    return DataLoader(
        data,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


@cache
def multi_digits() -> ImageData:
    """Two-digit images from the 1,797 handwritten digits that ship inside scikit-learn.

    The scans (8 x 8) are split first, one in five held out of each digit, and only then composed,
    so no scan is in both train and test. Each of the 100 label pairs has the same number of images,
    and each image is another pair of scans: 10,000 for training, 2,000 for testing.
    """
    scans, train_scans, test_scans = _digit_scans()
    return ImageData(
        tasks={"left": 10, "right": 10},
        train=side_by_side(scans, train_scans, images_per_pair=100),
        test=side_by_side(scans, test_scans, images_per_pair=20),
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
    scans, train_scans, test_scans = _digit_scans()
    return ImageData(
        tasks={"left": 2, "right": 2},
        train=side_by_side(
            scans, _halves(train_scans), torch.tensor([[equal, different], [different, equal]])
        ),
        test=side_by_side(scans, _halves(test_scans), images_per_pair=500),
        shift=1,
    )


def _digit_scans() -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """All scans, and those of each digit that are for training and for testing."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (a second to import)

    digits = load_digits()
    scans = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)
    return scans, *split_by_class(torch.from_numpy(digits.target), test_share=0.2)


def _halves(by_digit: list[Tensor]) -> list[Tensor]:
    """Scans of digits below 5, and of the others."""
    return [torch.cat(by_digit[:5]), torch.cat(by_digit[5:])]


def split_by_class(labels: Tensor, test_share: float) -> tuple[list[Tensor], list[Tensor]]:
    """Indices of each class, (train, test), drawn with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    for k in range(int(labels.max()) + 1):
        members = (labels == k).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = round(test_share * len(members))
        test.append(members[:held_out])
        train.append(members[held_out:])
    return train, test


def side_by_side(scans: Tensor, by_class: list[Tensor], images_per_pair: int | Tensor) -> ImageSet:
    """Compose scans (n, h, w) into images (N, 1, h, 2w), a stated number for each pair of classes.

    Args:
        scans: uint8 pictures of one object each.
        by_class: indices of the scans to use, a tensor for each class.
        images_per_pair: images for each (left class, right class), each of two other scans: one
            number, or a matrix of shape (K, K).
    """
    numbers = torch.as_tensor(images_per_pair).expand(len(by_class), len(by_class)).tolist()
    generator = torch.Generator().manual_seed(0)
    left, right, labels = [], [], []
    for i, lefts in enumerate(by_class):
        for j, rights in enumerate(by_class):
            number = numbers[i][j]
            chosen = torch.randperm(len(lefts) * len(rights), generator=generator)[:number]
            left.append(lefts[chosen // len(rights)])
            right.append(rights[chosen % len(rights)])
            labels.append(torch.tensor([i, j]).expand(number, 2))
    images = torch.cat([scans[torch.cat(left)], scans[torch.cat(right)]], dim=2)
    return ImageSet(images.unsqueeze(1), torch.cat(labels))


def binary_digits_name(share: float) -> str:
    """What the registry calls :func:`binary_digits` of this share."""
    return f"binary-digits-{share:g}"


DATASETS: dict[str, Callable[[], ImageData]] = {
    "multi-digits": multi_digits,
    **{binary_digits_name(share): partial(binary_digits, share) for share in SHARES},
}
"""Data sets by name."""
