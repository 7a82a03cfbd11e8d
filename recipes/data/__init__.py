"""Image sets: uint8 tensors that stay in memory, on the device that trains.

A data set is read once, moved to the device once, and indexed there a batch at a time; no
per-sample Python runs while training. A new one is a function from :class:`DataOptions` to
:class:`ImageData`, and a line in ``DATASETS``.

- Composed of two pictures, a task each: ``multi-digits``, ``multi-mnist-10-10``,
  ``multi-cifar10-10-10``, and ``binary-digits-SHARE``, whose labels agree in that share of images.
- Several tasks on each image: ``cifar100-cross-10x10``, ``celeba``. One task: ``cifar100``.
- Tasks with samples of their own: ``cifar100-split-5x20``. Any of these: ``image-folder``.

Everything random here has a fixed seed: a data set with given options is always the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from recipes.data._celeba import celeba
from recipes.data._digits import (
    SHARES,
    TRAIN_BINARY,
    binary_digits,
    binary_digits_name,
    multi_digits,
)
from recipes.data._folder import image_folder, read_tasks
from recipes.data._images import ImageData, ImageSet, has_own_samples, train_loader
from recipes.data._mnist_cifar import (
    cifar100,
    cifar100_cross,
    cifar100_split,
    multi_cifar10,
    multi_mnist,
)
from recipes.data._options import FILES, SAMPLING, DataOptions
from recipes.data._pairs import side_by_side, split_by_class
from recipes.data._sampling import allocate, choose

__all__ = [
    "DATASETS",
    "SHARES",
    "TRAIN_BINARY",
    "DataOptions",
    "DataSource",
    "ImageData",
    "ImageSet",
    "allocate",
    "binary_digits",
    "binary_digits_name",
    "check_options",
    "choose",
    "has_own_samples",
    "load_data",
    "multi_digits",
    "read_tasks",
    "side_by_side",
    "split_by_class",
    "train_loader",
]


@dataclass(frozen=True)
class DataSource:
    """How a data set is read.

    Attributes:
        read: makes it as options say.
        options: names of those it heeds.
    """

    read: Callable[[DataOptions], ImageData]
    options: frozenset[str] = FILES | SAMPLING


def _binary_digits(share: float) -> DataSource:
    return DataSource(lambda _: binary_digits(share), frozenset())


DATASETS: dict[str, DataSource] = {
    "multi-digits": DataSource(multi_digits, SAMPLING),
    "multi-mnist-10-10": DataSource(multi_mnist),
    "multi-cifar10-10-10": DataSource(multi_cifar10),
    "cifar100": DataSource(cifar100),
    "cifar100-cross-10x10": DataSource(cifar100_cross),
    "cifar100-split-5x20": DataSource(cifar100_split),
    "celeba": DataSource(celeba, FILES | SAMPLING | {"attributes", "image_size"}),
    "image-folder": DataSource(image_folder, {"root", "tasks", "image_size"} | SAMPLING),
    **{binary_digits_name(share): _binary_digits(share) for share in SHARES},
}
"""Data sets by name."""


def load_data(name: str, options: DataOptions) -> ImageData:
    """A data set; the one asked for last is kept, so that the runs of a comparison share it.

    Args:
        name: in ``DATASETS``.
        options: what is asked of it; further settings in a subclass do not matter.

    Raises:
        ValueError: naming the option, file or folder that is wrong, and the way out.
    """
    return _load(name, options.alone())


@lru_cache(maxsize=1)
def _load(name: str, options: DataOptions) -> ImageData:
    check_options(name, options)
    return DATASETS[name].read(options)


def check_options(name: str, options: DataOptions) -> None:
    """Refuse options that a data set has no use for, rather than ignore them.

    Raises:
        ValueError: naming the option, and the data sets that heed it.
    """
    if idle := sorted(options.given() - DATASETS[name].options):
        where = [other for other, source in DATASETS.items() if idle[0] in source.options]
        raise ValueError(
            f"{idle[0]}={getattr(options, idle[0])}: {name} has no use for it; "
            f"{', '.join(where)} have"
        )
