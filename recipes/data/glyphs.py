"""Characters rendered from the fonts of this machine: one task of a thousand classes and more.

Han characters first, then letters of other scripts. A character is a class, a font makes an image
of it, and the fonts of the test images are never trained on, nor are fonts that look like them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import PIL
import torch
from accelerate.utils import tqdm
from PIL import features
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.data.fonts import Font, Pen, designs, font_files, hashed
from recipes.data.images import ImageData
from recipes.data.labelled import labelled, one_task
from recipes.data.options import DataOptions
from recipes.data.pictures import Pictures
from recipes.storage import sha256, writing

CLASSES, SIDE = 1_000, 32
HELD_OUT = 4
"""One of so many designs is for the tests."""
LEAST = 3
"""Training fonts that each character is in, beside a test font."""
SAMPLE = 48
"""Characters by which fonts are compared."""
FORMAT = 1
"""Of the cache; another one when the same fonts would give other images."""
HAN = (range(0x4E00, 0xA000), range(0x3400, 0x4DC0))
PACKAGES = (
    *("fonts-noto-cjk", "fonts-wqy-zenhei", "fonts-wqy-microhei", "fonts-arphic-uming"),
    *("fonts-arphic-ukai", "fonts-hanazono", "fonts-ipafont", "fonts-vlgothic", "fonts-umeplus"),
    *("fonts-unfonts-core", "fonts-baekmuk", "fonts-droid-fallback"),
    *("fonts-arphic-gbsn00lp", "fonts-arphic-gkai00mp"),
    *("fonts-arphic-bsmi00lp", "fonts-arphic-bkai00mp"),
)
"""Debian's packages of fonts with Han characters, those with the most characters first."""


def glyphs(options: DataOptions) -> ImageData:
    """Characters as images, from fonts of which those of the tests are not trained on.

    Fonts of one family, or that draw the same shapes, are one design; every fourth design makes
    the test images. Classes are characters that three training fonts and a test font have, first
    those that the most fonts have. Each font makes one image of a character, in 0.8 to 1 times the
    side and somewhere in it, by a hash of font and character. What was rendered is kept in
    ``root/glyphs``, and made anew when other fonts, or another Pillow, would give other images.

    Args:
        options: ``classes``, 1,000 by default; ``image_size``, 32 by default; ``root``, whose
            folder ``fonts`` is searched as well as those of the system.

    Raises:
        ValueError: if the fonts share too few characters, naming packages that have more.
    """
    if len(options.classes) > 1:
        raise ValueError(f"classes={options.classes}: glyphs is one task, give one number")
    classes, side = (*options.classes, CLASSES)[0], options.image_size or SIDE
    train, test = rendered(font_files(options.root), classes, side, options.root / "glyphs")
    return labelled(train, test, {"character": classes}, options, flip=False)


def rendered(
    files: Sequence[Path], classes: int, side: int, cache: Path
) -> tuple[Pictures, Pictures]:
    """Training and test images from font files; read from the cache where they are in it."""
    made_by = [FORMAT, classes, side, PIL.__version__, features.version("freetype2")]
    contents = sorted((path.name, sha256(path)) for path in files)
    digest = hashlib.sha256(repr([made_by, contents]).encode()).hexdigest()
    place = cache / f"{classes}-{side}-{digest[:16]}.safetensors"
    try:
        found = load_file(place)
    except (FileNotFoundError, SafetensorError):  # not there, or damaged
        found = render(files, classes, side)
        beside = place.with_name(f".{place.name}.{os.getpid()}.partial")
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            save_file(found, beside)
            beside.replace(place)
    train, test = (
        Pictures.in_memory(found[f"{part}_images"], one_task(found[f"{part}_labels"].long()))
        for part in ("train", "test")
    )
    return train, test


def render(files: Iterable[Path], classes: int, side: int) -> dict[str, Tensor]:
    """Images (N, 1, side, side) and labels (N,), of training and of tests.

    Raises:
        ValueError: if the fonts share fewer characters than there are to be classes.
    """
    fonts = [
        font
        for font in map(Font.read, files)
        if font is not None and Pen(font, side).is_legible(sorted(font.characters)[:SAMPLE])
    ]
    characters = by_frequency(fonts)
    tests = held_out(fonts, characters[:SAMPLE], side)
    pens = [Pen(font, side) for font in fonts]
    parts = {"train": (bytearray(), list[int]()), "test": (bytearray(), list[int]())}
    seen: set[tuple[int, bytes]] = set()
    label = 0
    with tqdm(total=classes, desc="rendering characters", mininterval=0.5) as bar:
        for character in characters:
            plain = {
                (number, drawn)
                for number, font in enumerate(fonts)
                if character in font.characters and (drawn := pens[number].plain(character))
            }
            numbers = sorted(number for number, _ in plain)
            if not (_enough(numbers, tests) and seen.isdisjoint(plain)):
                continue
            seen |= plain
            for number in numbers:
                pictures, labels = parts["test" if number in tests else "train"]
                pictures += pens[number].anywhere(character)
                labels.append(label)
            label += 1
            bar.update()
            if label == classes:
                return _tensors(parts, side)
    raise ValueError(
        f"classes={classes}: {label} characters are in {LEAST} fonts to train on and one for "
        f"tests; {len(fonts)} fonts were found, {len(tests)} of them for tests. Take fewer "
        "--classes, put font files into the folder fonts of --root, or install some: "
        f"apt install {' '.join(PACKAGES)}"
    )


def held_out(fonts: Sequence[Font], sample: Sequence[str], side: int) -> set[int]:
    """Numbers of the fonts that make the test images: all of every fourth design."""
    found = designs(fonts, sample, side)
    found.sort(key=lambda own: -max(len(fonts[number].characters) for number in own))
    return {number for own in found[1::HELD_OUT] for number in own}


def by_frequency(fonts: Iterable[Font]) -> list[str]:
    """Characters: Han before others, those of many fonts first, equals in no order."""
    fonts_with = Counter(c for font in fonts for c in font.characters)

    def rank(character: str) -> tuple[bool, int, bytes]:
        han = any(ord(character) in block for block in HAN)
        return not han, -fonts_with[character], hashed(character)

    return sorted(fonts_with, key=rank)


def _enough(numbers: Sequence[int], tests: set[int]) -> bool:
    """Whether these fonts are enough to train on, and one is for the tests."""
    held = len(tests.intersection(numbers))
    return held >= 1 and len(numbers) - held >= LEAST


def _tensors(parts: dict[str, tuple[bytearray, list[int]]], side: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part, (pictures, labels) in parts.items():
        images = torch.frombuffer(pictures, dtype=torch.uint8).view(-1, 1, side, side)
        found |= {f"{part}_images": images, f"{part}_labels": torch.tensor(labels).int()}
    return found
