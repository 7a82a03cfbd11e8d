"""CelebA: faces with forty binary attributes, of which those asked for are tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recipes.data.images import ImageData
from recipes.data.labelled import labelled
from recipes.data.options import DataOptions
from recipes.data.pictures import Pictures

if TYPE_CHECKING:
    from torchvision.datasets import CelebA

SIDE = 64


def celeba(options: DataOptions) -> ImageData:
    """One binary task an attribute; the middle square of each image, resized.

    Raises:
        ValueError: if the files are not there, or attributes are not named, or not known.
    """
    train, test = (_list(part, options) for part in ("train", "test"))
    known = [name for name in train.attr_names if name]
    asked = options.attributes
    if not asked or len(set(asked)) < len(asked) or set(asked) - set(known):
        raise ValueError(
            f"attributes={asked}: name one or more with --attributes, none twice; choose from "
            f"{', '.join(known)}"
        )
    columns = [known.index(name) for name in asked]

    def pictures(part: CelebA) -> Pictures:
        folder = Path(part.root, part.base_folder, "img_align_celeba")
        paths = [folder / name for name in part.filename]
        side = options.image_size or SIDE
        return Pictures.in_files(paths, part.attr[:, columns].long(), "RGB", side)

    return labelled(pictures(train), pictures(test), dict.fromkeys(asked, 2), options, flip=True)


def _list(part: str, options: DataOptions) -> CelebA:
    from torchvision.datasets import CelebA

    try:
        return CelebA(options.root, part, download=options.download)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise ValueError(
            f"CelebA cannot be read from {options.root / 'celeba'} ({error}): say with --root "
            "where its folder is, or fetch it with --download (which needs gdown)"
        ) from error
