"""Images to pretrain on, and those of the task that follows, drawn by the seed of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from recipes.data import DataOptions, load_data
from recipes.data.digits import single_digits
from recipes.data.images import ImageData, ImageSet


@dataclass(frozen=True)
class Transfer:
    """Images of a pretraining, and of a task after it.

    Attributes:
        source: what the network is pretrained on.
        target: what it is adapted to; no training image is one of the source's.
        held_out: further images of the target, which settings are chosen by.
        shifted: images of the target's classes from elsewhere, if there are any.
    """

    source: ImageData
    target: ImageData
    held_out: ImageSet
    shifted: ImageSet | None = None

    def to(self, device: torch.device) -> Transfer:
        """The same images on another device."""
        shifted = None if self.shifted is None else self.shifted.to(device)
        return Transfer(
            self.source.to(device), self.target.to(device), self.held_out.to(device), shifted
        )


def draw(
    images: ImageSet, classes: Sequence[int], sizes: Sequence[int], seed: int
) -> list[ImageSet]:
    """Disjoint sets of images, each with so many of each class.

    Args:
        images: with one label each.
        classes: labels to draw; in what is returned they are numbered in this order.
        sizes: images of each class, a number for each set.
        seed: of the draw.

    Raises:
        ValueError: if a class has too few images.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(images), generator=generator)
    labels = images.labels[shuffled, 0]
    parts: list[list[Tensor]] = [[] for _ in sizes]
    for k in classes:
        own = shuffled[labels == k]
        if len(own) < sum(sizes):
            raise ValueError(
                f"class {k} has {len(own)} images and {sum(sizes)} are needed: give the whole data "
                "set with --root"
            )
        for part, chosen in zip(parts, own[: sum(sizes)].split(list(sizes)), strict=True):
            part.append(chosen)
    number = {k: i for i, k in enumerate(classes)}
    return [_renumbered(images.of(torch.cat(part)), number.__getitem__) for part in parts]


def _renumbered(images: ImageSet, label: Callable[[int], int]) -> ImageSet:
    labels = torch.tensor([label(k) for k in images.labels[:, 0].tolist()])
    return ImageSet(images.images, labels[:, None])


def _joined(*parts: ImageSet) -> ImageSet:
    return ImageSet(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )


def odd_even(options: DataOptions, seed: int, *, source: str) -> Transfer:
    """1,000 MNIST digits, by parity or by digit; then all ten digits, from 500 others.

    Args:
        options: where the files are.
        seed: of the draw.
        source: "parity" or "digit", the label of the pretraining; its images are the same.
    """
    mnist = load_data("mnist", options)
    train, target, held_out = draw(mnist.train, range(10), (100, 50, 50), seed)
    (test,) = draw(mnist.test, range(10), (200,), 0)
    tasks, first, first_test = {"digit": 10}, train, test
    if source == "parity":
        tasks = {"parity": 2}
        first, first_test = (_renumbered(part, lambda k: k % 2) for part in (train, test))
    return Transfer(
        source=ImageData(tasks, first, first_test, shift=0),
        target=ImageData({"digit": 10}, target, test, shift=0),
        held_out=held_out,
    )


SIDE = 16
"""Of the images that are made smaller, and of scans that are made larger."""


def shifted_digits(options: DataOptions, seed: int) -> Transfer:
    """Digits 5 to 9 of MNIST and of scikit-learn's scans; then 0 to 4 of 300 MNIST images.

    The scans of 0 to 4 are the shifted images: of a domain that the pretraining had, and of classes
    that only MNIST showed.
    """
    mnist = load_data("mnist", replace(options, image_size=SIDE))
    scans = _scans()
    low, high = range(5), range(5, 10)
    (written,) = draw(mnist.train, high, (150,), seed)
    scanned, scanned_test = draw(scans, high, (150, 20), seed)
    (written_test,) = draw(mnist.test, high, (20,), 0)
    target, held_out = draw(mnist.train, low, (60, 60), seed)
    (test,) = draw(mnist.test, low, (400,), 0)
    (shifted,) = draw(scans, low, (170,), 0)
    return Transfer(
        source=ImageData(
            {"digit": 5}, _joined(written, scanned), _joined(written_test, scanned_test), shift=0
        ),
        target=ImageData({"digit": 5}, target, test, shift=0),
        held_out=held_out,
        shifted=shifted,
    )


def _scans() -> ImageSet:
    """All of scikit-learn's digits, from 8 x 8 pixels to the side of the others."""
    data = single_digits()  # load_data keeps one data set, and that is the other one
    scans = _joined(data.train, data.test)
    larger = interpolate(scans.images.float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
    return ImageSet(larger.round().byte(), scans.labels)


# Superclass of each class of CIFAR-100, both in the order of their names.
SUPERCLASSES = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)


def superclasses(options: DataOptions, seed: int) -> Transfer:
    """The classes of every other superclass of CIFAR-100; then two of each of the remaining ones.

    Pretraining has 50 classes of 250 images, the task after it 20 classes of 50, all of 16 x 16
    pixels.
    """
    cifar = load_data("cifar100", replace(options, image_size=SIDE))
    members = [[k for k, own in enumerate(SUPERCLASSES) if own == s] for s in range(20)]
    first = [k for own in members[::2] for k in own]
    after = [k for own in members[1::2] for k in own[:2]]
    (source,) = draw(cifar.train, first, (250,), seed)
    (source_test,) = draw(cifar.test, first, (20,), 0)
    target, held_out = draw(cifar.train, after, (50, 50), seed)
    (test,) = draw(cifar.test, after, (100,), 0)
    return Transfer(
        source=ImageData({"class": 50}, source, source_test, cifar.shift, cifar.flip),
        target=ImageData({"class": 20}, target, test, cifar.shift, cifar.flip),
        held_out=held_out,
    )


Draw = Callable[[DataOptions, int], Transfer]

TRANSFERS: dict[str, Draw] = {
    "parity": partial(odd_even, source="parity"),
    "digit": partial(odd_even, source="digit"),
    "shifted-digits": shifted_digits,
    "superclasses": superclasses,
}
"""By name: images to pretrain on, and a task after it."""


@lru_cache(maxsize=1)
def load_transfer(name: str, options: DataOptions, seed: int) -> Transfer:
    """The images of a name in ``TRANSFERS``, drawn by a seed.

    Args:
        name: of the pair of tasks.
        options: where the files are.
        seed: of the training images; test images are the same for all seeds.

    Raises:
        ValueError: if there is no such name, or the files are not there.
    """
    if name not in TRANSFERS:
        raise ValueError(f"images={name!r}: choose from {', '.join(TRANSFERS)}")
    return TRANSFERS[name](options, seed)
