"""MNIST and CIFAR, whole or composed, from torchvision's files or a folder a class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recipes.data.images import ImageData
from recipes.data.labelled import crossed, labelled, one_task, split
from recipes.data.options import DataOptions
from recipes.data.pairs import composed, in_corners
from recipes.data.pictures import Mode, Pictures, read_folder
from recipes.data.sampling import fewer_classes


def multi_mnist(options: DataOptions) -> ImageData:
    """Two MNIST digits (28 x 28) on a canvas of 36 x 36 pixels, top left and bottom right.

    They overlap in 20 x 20 pixels, where the brighter one shows. 60,000 training images are made
    of MNIST's training digits and 10,000 test images of its test digits, unless options say how
    many; each label pair has as many unless they say otherwise.
    """
    return _in_corners("MNIST", "L", 36, options, train_images=60_000, shift=2)


def multi_cifar10(options: DataOptions) -> ImageData:
    """Two CIFAR-10 images (32 x 32) on a canvas of 64 x 64 pixels, top left and bottom right.

    Natural images have no background to see the other through, so they do not overlap. 50,000
    training images and 10,000 test images as in :func:`multi_mnist`.
    """
    return _in_corners("CIFAR10", "RGB", 64, options, train_images=50_000, shift=4)


def _in_corners(
    source: str, mode: Mode, canvas: int, options: DataOptions, *, train_images: int, shift: int
) -> ImageData:
    train, test = _read(source, 10, mode, options)
    return composed(
        train,
        test,
        fewer_classes({"top_left": 10, "bottom_right": 10}, options),
        options,
        in_corners(canvas),
        train_images=train_images,
        test_images=10_000,
        shift=shift,
    )


def mnist_pictures(options: DataOptions) -> tuple[Pictures, Pictures]:
    """MNIST's single digits for training and testing."""
    train, test = _read("MNIST", 10, "L", options)
    return train, test


def mnist(options: DataOptions) -> ImageData:
    """MNIST, one task of ten digits."""
    pictures = mnist_pictures(options)
    return labelled(*pictures, {"digit": 10}, options, flip=False, labels_of=one_task)


def cifar100(options: DataOptions) -> ImageData:
    """CIFAR-100, one task of 100 classes."""
    return _cifar100({"class": 100}, one_task, options)


def cifar100_cross(options: DataOptions) -> ImageData:
    """CIFAR-100 with two tasks on every image: the tens and the ones of its class number."""
    return _cifar100({"tens": 10, "ones": 10}, lambda labels: crossed(labels, 10), options)


def cifar100_split(options: DataOptions) -> ImageData:
    """CIFAR-100 as five tasks with samples of their own: classes 0 to 19, 20 to 39, ..."""
    tasks = {f"part{t + 1}": 20 for t in range(5)}
    classes = torch.arange(100)
    return _cifar100(tasks, lambda labels: split(labels, classes // 20, classes % 20), options)


def _cifar100(
    tasks: dict[str, int], labels_of: Callable[[Tensor], Tensor], options: DataOptions
) -> ImageData:
    train, test = _read("CIFAR100", 100, "RGB", options)
    return labelled(train, test, tasks, options, flip=True, labels_of=labels_of)


def _read(source: str, classes: int, mode: Mode, options: DataOptions) -> list[Pictures]:
    """Training and test pictures, numbered by class."""
    own = options.root / source.lower()  # one root for all data sets, or one of its own
    root = own if (own / "train").is_dir() else options.root
    if (root / "train").is_dir():
        names, *parts = read_folder(root, mode)
        if len(names) != classes:
            raise ValueError(
                f"{root / 'train'} has {len(names)} folders, {source} has "
                f"{classes} classes: say with --root where it is, or use --data image-folder"
            )
        return parts
    return [_in_torchvision(source, train, options) for train in (True, False)]


def _in_torchvision(source: str, train: bool, options: DataOptions) -> Pictures:
    from torchvision import datasets

    try:
        found = getattr(datasets, source)(options.root, train=train, download=options.download)
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
        raise ValueError(
            f"{source} cannot be read from {options.root} ({error}): say with --root "
            "where it is, or fetch it with --download"
        ) from error
    return Pictures.in_memory(_channels_first(found.data), torch.as_tensor(found.targets))


def _channels_first(images: Tensor) -> Tensor:
    images = torch.as_tensor(images)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
