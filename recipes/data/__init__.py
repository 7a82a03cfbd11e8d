"""Image sets by name: uint8 tensors that stay in memory, on the device that trains.

A data set is read once, moved to the device once, and indexed there a batch at a time; no
per-sample Python runs while training. A new one is a function from :class:`DataOptions` to
:class:`~recipes.data.images.ImageData`, and a line in ``DATASETS``.

- Composed of two pictures, a task each: ``multi-digits``, ``multi-mnist-10-10``,
  ``multi-cifar10-10-10``, and ``binary-digits-SHARE``, whose labels agree in that share of images.
- One digit or two in an image, and a set of labels: ``label-sets-digits``, ``label-sets-mnist``.
- Several tasks on each image: ``cifar100-cross-10x10``, ``celeba``.
- One task: ``digits``, ``mnist``, ``cifar100``, and ``glyphs``, of thousands of classes.
- Tasks with samples of their own: ``cifar100-split-5x20``. Any of these: ``image-folder``.

Everything random here has a fixed seed: a data set with given options is always the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recipes.data.options import FILES, SAMPLING, DataOptions

if TYPE_CHECKING:
    from recipes.data.images import ImageData

__all__ = [
    "DATASETS",
    "SHARES",
    "DataOptions",
    "DataSource",
    "binary_digits_name",
    "check_options",
    "load_data",
]

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Shares of images with equal labels for which ``binary-digits`` has a name."""


@dataclass(frozen=True)
class DataSource:
    """The reader of a data set.

    Attributes:
        read: makes it as options say.
        options: names of those it heeds.
    """

    read: Callable[[DataOptions], ImageData]
    options: frozenset[str] = FILES | SAMPLING


SIZED = FILES | SAMPLING | {"image_size"}
"""Options of data sets whose images can be made smaller."""


LABEL_SETS = frozenset({"validation", "random"})
"""Options of data sets whose images have any number of labels."""


def _function(file: str, name: str) -> Callable[[Any], ImageData]:
    """A function of a file of this folder, which is imported when it is called."""

    def read(options: Any) -> ImageData:
        return getattr(import_module(f"recipes.data.{file}"), name)(options)

    return read


def _binary_digits(share: float) -> DataSource:
    read = _function("digits", "binary_digits")
    return DataSource(lambda _: read(share), frozenset())


def binary_digits_name(share: float) -> str:
    """The name of the data set of :func:`~recipes.data.digits.binary_digits` with this share."""
    return f"binary-digits-{share:g}"


DATASETS: dict[str, DataSource] = {
    "digits": DataSource(_function("digits", "single_digits"), SAMPLING),
    "mnist": DataSource(_function("mnist_cifar", "mnist"), SIZED),
    "label-sets-digits": DataSource(_function("label_sets", "digit_sets"), LABEL_SETS),
    "label-sets-mnist": DataSource(
        _function("label_sets", "mnist_sets"), LABEL_SETS | FILES | {"image_size"}
    ),
    "multi-digits": DataSource(_function("digits", "multi_digits"), SAMPLING),
    "multi-mnist-10-10": DataSource(_function("mnist_cifar", "multi_mnist"), SIZED),
    "multi-cifar10-10-10": DataSource(_function("mnist_cifar", "multi_cifar10"), SIZED),
    "cifar100": DataSource(_function("mnist_cifar", "cifar100"), SIZED),
    "cifar100-cross-10x10": DataSource(_function("mnist_cifar", "cifar100_cross"), SIZED),
    "cifar100-split-5x20": DataSource(_function("mnist_cifar", "cifar100_split"), SIZED),
    "glyphs": DataSource(_function("glyphs", "glyphs"), SAMPLING | {"root", "image_size"}),
    "celeba": DataSource(_function("celeba", "celeba"), SIZED | {"attributes"}),
    "image-folder": DataSource(
        _function("folder", "image_folder"), SAMPLING | {"root", "tasks", "image_size"}
    ),
    **{binary_digits_name(share): _binary_digits(share) for share in SHARES},
}
"""Data sets by name."""


SHRUNK = tuple(name for name in DATASETS if "mnist" in name or "cifar" in name)
"""Data sets of one image size, which ``image_size`` makes smaller."""


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
    data = DATASETS[name].read(options)
    if name in SHRUNK and options.image_size is not None:
        data = data.shrunk(options.image_size)
    if options.random is not None:
        data = data.randomised(options.random)
    return data.validated(options.validation) if options.validation else data


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
