"""Pictures that are decoded when they have been chosen, from arrays and from files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from accelerate.utils import tqdm
from PIL import Image, ImageOps
from torch import Tensor

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

Mode = Literal["L", "RGB"]
"""Grey or colour, as Pillow names them."""


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures.

    Attributes:
        labels: int64 (N,) or (N, T).
        fetch: indices (n,) to uint8 pictures (n, C, H, W).
    """

    labels: Tensor
    fetch: Callable[[Tensor], Tensor]

    @classmethod
    def in_memory(cls, images: Tensor, labels: Tensor) -> Pictures:
        """Pictures (N, C, H, W) that are there already."""
        return cls(labels, images.__getitem__)

    @classmethod
    def in_files(
        cls, paths: Sequence[Path], labels: Tensor, mode: Mode, size: int | None = None
    ) -> Pictures:
        """Pictures in a file each."""

        def fetch(chosen: Tensor) -> Tensor:
            distinct, place = chosen.unique(return_inverse=True)
            return decode([paths[i] for i in distinct.tolist()], mode, size)[place]

        return cls(labels, fetch)

    def labelled(self, labels: Tensor) -> Pictures:
        """The same pictures with other labels."""
        return replace(self, labels=labels)


def decode(paths: Sequence[Path], mode: Mode, size: int | None) -> Tensor:
    """Read images into one uint8 tensor (n, C, H, W), on all cores, with a progress bar.

    Args:
        paths: the files.
        mode: what they are converted to.
        size: the largest square in their middle is resized to this side; None leaves them as
            they are.

    Raises:
        ValueError: naming the file that cannot be read, or is of another size than the first.
    """
    first = _picture(paths[0], mode, size)
    images = torch.empty((len(paths), *first.shape), dtype=torch.uint8)

    def alike(path: Path) -> Tensor:
        picture = _picture(path, mode, size)
        if picture.shape != first.shape:
            raise ValueError(
                f"{path} has {_pixels(picture)} pixels, {paths[0]} has {_pixels(first)}: give all "
                "images one size with --image-size"
            )
        return picture

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pictures = pool.map(alike, paths)  # what a thread raises is raised here, the rest cancelled
        bar = tqdm(pictures, total=len(paths), desc="reading images", mininterval=0.5)
        for number, picture in enumerate(bar):
            images[number] = picture
    return images


def _picture(path: Path, mode: Mode, size: int | None) -> Tensor:
    try:
        with Image.open(path) as file:
            image = file.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}): replace it, or take it away"
        ) from error
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _pixels(picture: Tensor) -> str:
    return f"{picture.shape[2]} x {picture.shape[1]}"


def read_folder(
    root: Path, mode: Mode, size: int | None = None
) -> tuple[tuple[str, ...], Pictures, Pictures]:
    """Class names, training and test pictures of ``root/{train,test}/CLASS/FILE``.

    Classes are numbered in the order of their names.

    Raises:
        ValueError: naming the folder that is missing, empty or unknown.
    """
    train, test = (_list(root / part) for part in ("train", "test"))
    if unknown := sorted(set(test.classes) - set(train.classes)):
        raise ValueError(
            f"{root / 'test' / unknown[0]} is of a class that {root / 'train'} does not have: "
            "put training images there, or take the folder away"
        )

    def pictures(part: ImageFolder) -> Pictures:
        labels = [train.class_to_idx[part.classes[k]] for k in part.targets]
        paths = [Path(path) for path, _ in part.samples]
        return Pictures.in_files(paths, torch.tensor(labels), mode, size)

    return tuple(train.classes), pictures(train), pictures(test)


def _list(folder: Path) -> ImageFolder:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(folder)
    except OSError as error:
        raise ValueError(
            f"{folder} is no folder of images ({error}): expected a folder a class below it, with "
            "images in each; say with --root where train and test are"
        ) from error
