"""Fonts of this machine, the characters that they have, and pictures of these."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from PIL import Image, ImageFont
from torch import Tensor
from torch.nn import functional as F

KINDS = {".ttf", ".otf", ".ttc", ".otc"}
LETTERS = {"Lu", "Ll", "Lo"}
NO_CHARACTER = "\U0010fffe"
"""Which no font has: it is drawn as what stands for missing ones."""
SMALLEST = 0.8
"""Least font size, as a share of the picture's side."""
ALIKE = 0.72
"""Fonts whose pictures of the same characters correlate by this mean are one design."""


@dataclass(frozen=True)
class Font:
    """A font file; of a collection, its first font.

    Attributes:
        path: of the file.
        family: its name, without weight and slant.
        characters: letters that it has a glyph for.
    """

    path: Path
    family: str
    characters: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Font | None:
        """The font of a file; None if it is damaged, or has no outlines, or no letters."""
        from fontTools.ttLib import TTFont, TTLibError

        try:
            with path.open("rb") as file, TTFont(file, fontNumber=0, lazy=True) as font:
                glyphs = font.getBestCmap() or {}
                family = font["name"].getDebugName(16) or font["name"].getDebugName(1) or path.stem
            ImageFont.truetype(str(path), 16)
        except (TTLibError, OSError, KeyError, AssertionError, ValueError, struct.error):
            return None
        found = frozenset(
            chr(code) for code, glyph in glyphs.items() if glyph != ".notdef" and _is_letter(code)
        )
        return cls(path, family, found) if found else None


def _is_letter(code: int) -> bool:
    """Whether this is a letter or ideograph, and no other form of another one."""
    character = chr(code)
    if unicodedata.category(character) not in LETTERS:
        return False
    return unicodedata.normalize("NFKC", character) == character


class Pen:
    """Pictures of the characters of a font: bytes of (side, side), white on black.

    Args:
        font: the font.
        side: pixels.
    """

    def __init__(self, font: Font, side: int) -> None:
        self.path, self.side = font.path, side
        self._sizes: dict[int, ImageFont.FreeTypeFont] = {}
        self._missing = self._draw(NO_CHARACTER, side)

    def plain(self, character: str) -> bytes | None:
        """The character in the middle; None if it is blank, or the box of missing characters."""
        drawn = self._draw(character, self.side)
        return drawn if any(drawn) and drawn != self._missing else None

    def is_legible(self, characters: Iterable[str]) -> bool:
        """Whether most of these have pictures of their own: fonts of last resort draw boxes."""
        drawn = [picture for c in characters if (picture := self.plain(c))]
        return 2 * len(set(drawn)) > len(drawn)

    def anywhere(self, character: str) -> bytes:
        """In one of several sizes, somewhere: always the same of one character and font file."""
        across, down, size = (
            number / 2**16 for number in struct.unpack("<3H", hashed(self.path.name, character)[:6])
        )
        pixels = round(self.side * (SMALLEST + (1 - SMALLEST) * size))
        return self._draw(character, pixels, across, down)

    def _draw(self, character: str, size: int, across: float = 0.5, down: float = 0.5) -> bytes:
        """In a font size, with these shares of the room beside it on the left and above."""
        if size not in self._sizes:
            basic = ImageFont.Layout.BASIC
            self._sizes[size] = ImageFont.truetype(str(self.path), size, layout_engine=basic)
        mask = self._sizes[size].getmask(character, mode="L")
        picture = Image.new("L", (self.side, self.side))
        if min(mask.size) > 0:
            ink = Image.frombytes("L", mask.size, bytes(mask))
            ink = ink.crop(ink.getbbox())
            room = self.side - ink.width, self.side - ink.height
            picture.paste(ink, (round(room[0] * across), round(room[1] * down)))
        return picture.tobytes()


def font_files(root: Path) -> list[Path]:
    """Font files of the system's folders and of ``root/fonts``, each once."""
    found = {
        path.resolve()
        for folder in (*system_folders(), root / "fonts")
        for path in folder.rglob("*")
        if path.suffix.lower() in KINDS and path.is_file()
    }
    return sorted(found)


def system_folders() -> list[Path]:
    """Folders of fonts for all users, and for this one."""
    home = Path.home()
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    shared = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
    return [*shared, home / ".local/share/fonts", home / ".fonts"]


def designs(fonts: Sequence[Font], sample: Sequence[str], side: int) -> list[list[int]]:
    """Numbers of the fonts that are one family, or draw a sample of characters alike, together."""
    shapes = [_shapes(font, sample, side) for font in fonts]
    group = list(range(len(fonts)))
    for i, j in combinations(range(len(fonts)), 2):
        same = fonts[i].family == fonts[j].family
        if same or _likeness(shapes[i], shapes[j], len(sample) // 4) > ALIKE:
            group = [group[i] if g == group[j] else g for g in group]
    found = defaultdict(list)
    for number, own in enumerate(group):
        found[own].append(number)
    return list(found.values())


def _shapes(font: Font, sample: Sequence[str], side: int) -> dict[str, Tensor]:
    """Centred pictures of unit length, of those characters of a sample that a font has."""
    pen, shapes = Pen(font, side), dict[str, Tensor]()
    for character in font.characters.intersection(sample):
        if drawn := pen.plain(character):
            pixels = torch.frombuffer(bytearray(drawn), dtype=torch.uint8).float()
            shapes[character] = F.normalize(pixels - pixels.mean(), dim=0)
    return shapes


def _likeness(one: Mapping[str, Tensor], other: Mapping[str, Tensor], least: int) -> float:
    """Mean correlation of the characters that both have; 0 where these are fewer than ``least``."""
    shared = one.keys() & other.keys()
    if not shared or len(shared) < least:
        return 0.0
    return float(torch.stack([one[c] @ other[c] for c in shared]).mean())


def hashed(*parts: str) -> bytes:
    """Bytes that follow from names alone."""
    return hashlib.sha256("/".join(parts).encode()).digest()
