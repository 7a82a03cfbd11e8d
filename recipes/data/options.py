"""Options of data sets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

Randomised = Literal["labels", "pixels"]

SAMPLING = frozenset(
    {
        "train_images",
        "test_images",
        "classes",
        "imbalance",
        "pair_imbalance",
        "agreement",
        "validation",
        "random",
    }
)
"""Options that choose among images, whatever these show."""

FILES = frozenset({"root", "download"})
"""Options of data sets that are read from files."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Location of the images, and the choice among them.

    Attributes:
        root: directory of the data set's files, as torchvision lays them out, or with
            train/CLASS/*.png and test/CLASS/*.png.
        download: let torchvision fetch files that are not there.
        train_images: at most so many training images, with classes and label tuples in the shares
            they have; by default all, and of composed images as many as the data set says.
        test_images: the same of test images.
        classes: number of classes of each task; the first ones are kept. Of glyphs, how many
            characters to render.
        imbalance: how many times more frequent the first class of each task is than its last in
            training, the others between them along an exponential curve.
        pair_imbalance: the same of label pairs of two tasks whose classes stay balanced.
        agreement: share of training images whose two labels are equal; classes stay balanced.
        attributes: names of the attributes of celeba that are tasks.
        tasks: JSON file that makes tasks of the classes of image-folder: lists of classes, each
            in one task, {"animals": ["cat", "dog"], "plants": ["fern", "oak"]}; or a label for
            every class, {"animate": {"cat": 1, "dog": 1, "fern": 0, "oak": 0}}.
        image_size: side that images of celeba and image-folder are cropped and resized to, and
            those of MNIST and CIFAR shrunk to, and of glyphs rendered in; by default 64 for
            celeba, 32 for glyphs, and otherwise the size that they have.
        random: takes the relation of images and labels away, in both splits: "labels" are given to
            other images, so that classes stay as frequent; or "pixels" are drawn anew, uniformly.
        validation: share of the training images, drawn with a fixed seed, that is held out and
            takes the place of the test images: to choose settings by.
    """

    root: Path = Path("data")
    download: bool = False
    train_images: int | None = None
    test_images: int | None = None
    classes: tuple[int, ...] = ()
    imbalance: float = 1.0
    pair_imbalance: float = 1.0
    agreement: float | None = None
    attributes: tuple[str, ...] = ()
    tasks: Path | None = None
    image_size: int | None = None
    random: Randomised | None = None
    validation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("train_images", "test_images", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        if few := [k for k in self.classes if k < 2]:
            raise ValueError(f"classes={self.classes}: a task needs at least 2, got {few[0]}")
        for name in ("imbalance", "pair_imbalance"):
            if not 1 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 (balanced) is needed")
        if self.agreement is not None and not 0 <= self.agreement <= 1:
            raise ValueError(f"agreement={self.agreement}: a share lies between 0 and 1")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation={self.validation}: a share lies from 0 to below 1")
        if self.random not in (None, "labels", "pixels"):
            raise ValueError(f"random={self.random!r}: choose from labels, pixels")
        skewed = [n for n in ("imbalance", "pair_imbalance", "agreement") if n in self.given()]
        if len(skewed) > 1:
            raise ValueError(f"{' and '.join(skewed)} are two distributions: give one of them")

    def given(self) -> set[str]:
        """Options that differ from their defaults."""
        own = fields(DataOptions)
        return {f.name for f in own if getattr(self, f.name) != f.default}

    def alone(self) -> DataOptions:
        """These options without what a subclass adds to them."""
        return DataOptions(**{f.name: getattr(self, f.name) for f in fields(DataOptions)})
