"""Words of the standard library of Python, which is on every machine: text for language models."""

from __future__ import annotations

import hashlib
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LENGTH = 32
"""Words of a window, each of which is predicted from those before it in the window."""

OTHER = 0
"""The class of all words that are not in the vocabulary."""

PACKAGES, TESTS = {"site-packages", "dist-packages"}, {"test", "tests", "idle_test"}
LEFT_OUT = PACKAGES | TESTS | {"encodings", "pydoc_data"}
"""Folders that are not read: packages that are not of Python; tests, which are not installed
everywhere; encodings, tables that are alike in many files, so that a split by file would not divide
them; and pydoc_data, one large file of manual pages."""

PARTS = ("train", "validation", "test")

_WORD = re.compile(r"[^\W\d]\w*|\d+|[^\w\s]")


@dataclass(frozen=True)
class Corpus:
    """Windows of words, by the part of the files that they are from.

    Attributes:
        train: (N, LENGTH + 1) numbers of words; so are the next two.
        validation: of files that are in no other part, to choose settings by.
        test: of files that are in no other part.
        counts: how often each word is in the training files, (vocabulary,); 1 at least.
        facts: the version of Python, numbers of files and words, the share of the test words that
            are not in the vocabulary, and a hash of everything.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    counts: Tensor
    facts: dict[str, Any]

    def to(self, device: torch.device) -> Corpus:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in (*PARTS, "counts")}
        return replace(self, **moved)


@cache
def source_code(vocabulary: int, folder: Path | None = None) -> Corpus:
    """The Python files below a folder, split by file.

    A word is an identifier, a number or a sign; spaces and ends of lines are none. The vocabulary
    is the most frequent words of the training files, in alphabetical order where they are equally
    frequent, and one class for all others. The part of a file follows from a hash of its path, so
    that it is the same on all machines; the words depend on the version of Python.

    Args:
        vocabulary: number of classes, the one of other words included.
        folder: of ``.py`` files; by default the standard library of this Python.

    Raises:
        ValueError: if there are too few files, or too few words for the vocabulary.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    texts: dict[str, list[list[str]]] = {part: [] for part in PARTS}
    for name, text in _files(folder):
        texts[part_of(name)].append(_WORD.findall(text))
    if not all(any(len(words) > LENGTH for words in own) for own in texts.values()):
        raise ValueError(
            f"{folder} has too few .py files to learn from, choose by and test with "
            f"({ {name: len(own) for name, own in texts.items()} }): use a Python whose standard "
            "library is there as files"
        )
    frequencies = Counter(word for words in texts["train"] for word in words)
    if not 2 <= vocabulary <= len(frequencies) + 1:
        raise ValueError(
            f"vocabulary={vocabulary}: the training files in {folder} have {len(frequencies)} "
            f"words; from 2 to {len(frequencies) + 1} are possible"
        )
    ordered = sorted(frequencies, key=lambda word: (-frequencies[word], word))
    numbers = {word: i for i, word in enumerate(ordered[: vocabulary - 1], start=OTHER + 1)}
    parts = {name: _windows(own, numbers) for name, own in texts.items()}
    known = [frequencies[word] for word in numbers]
    rest = max(1, frequencies.total() - sum(known))
    facts = {
        "python": platform.python_version(),
        "files": sum(map(len, texts.values())),
        "words": {name: sum(map(len, own)) for name, own in texts.items()},
        "other": round(float((parts["test"][:, 1:] == OTHER).double().mean()), 4),
        "sha256": hashlib.sha256(
            b"".join(own.to(torch.int32).numpy().tobytes() for own in parts.values())
        ).hexdigest(),
    }
    return Corpus(**parts, counts=torch.tensor([rest, *known]), facts=facts)


def part_of(name: str) -> str:
    """The part that a file belongs to, by its path with slashes: eight of ten are for training."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 10
    return {0: "validation", 1: "test"}.get(place, "train")


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Paths below the folder, with slashes, and texts, in alphabetical order of the paths."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
    for name in sorted(found):
        if not LEFT_OUT & set(name.split("/")[:-1]):
            yield name, found[name].read_text("utf-8", errors="replace")


def _windows(texts: list[list[str]], numbers: dict[str, int]) -> Tensor:
    """Windows of each file, one after the other; the last word of one is the first of the next."""
    found = []
    for words in texts:
        coded = torch.tensor([numbers.get(word, OTHER) for word in words])
        if len(coded) > LENGTH:
            found.append(coded.unfold(0, LENGTH + 1, LENGTH))
    return torch.cat(found)
