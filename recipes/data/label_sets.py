"""Images of one digit or of two different ones, each with the set of their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from recipes.data.digits import digit_pictures
from recipes.data.images import ImageData, ImageSet
from recipes.data.mnist_cifar import mnist_pictures
from recipes.data.options import DataOptions
from recipes.data.pictures import Pictures

DIGITS = 10
DEFAULTS = DataOptions()


@dataclass(frozen=True)
class Numbers:
    """Images of each set of one label, and of each set of two."""

    alone: int
    pair: int


@cache
def digit_sets(options: DataOptions = DEFAULTS) -> ImageData:  # noqa: ARG001
    """Digits of scikit-learn (8 x 8), alone or in pairs, on a canvas of 16 x 16 pixels.

    For training 310 images of each digit and 60 of each of the 45 pairs, for testing 80 and 20, of
    other scans.
    """
    return _composed(*digit_pictures(), Numbers(310, 60), Numbers(80, 20))


def mnist_sets(options: DataOptions) -> ImageData:
    """Digits of MNIST (28 x 28), alone or in pairs, on a canvas of 56 x 56 pixels.

    The data of Li, Li, Wang and Qu (ICML 2024): for training 3,100 images of each digit and 200 of
    each pair. For testing 800 and 50.
    """
    return _composed(*mnist_pictures(options), Numbers(3_100, 200), Numbers(800, 50))


def _composed(train: Pictures, test: Pictures, learned: Numbers, held_out: Numbers) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    return ImageData(
        tasks={"digit": DIGITS},
        train=_part(train, learned, generator),
        test=_part(test, held_out, generator),
        shift=1,
        label_sets=True,
    )


def _part(pictures: Pictures, numbers: Numbers, generator: torch.Generator) -> ImageSet:
    """Images of every set, in whose corners digits are drawn with replacement."""
    sets = [
        *((k, k) for k in range(DIGITS) for _ in range(numbers.alone)),
        *(two for two in combinations(range(DIGITS), 2) for _ in range(numbers.pair)),
    ]
    drawn = torch.tensor(sets)
    members = [(pictures.labels == k).nonzero()[:, 0] for k in range(DIGITS)]
    # Which of the two is top left is drawn as well.
    swapped = torch.randint(2, (len(drawn),), generator=generator).bool()
    corners = torch.where(swapped[:, None], drawn.flip(1), drawn)
    chosen = torch.empty_like(corners)
    for k, own in enumerate(members):
        here = corners == k
        chosen[here] = own[torch.randint(len(own), (int(here.sum()),), generator=generator)]
    first, second = (pictures.fetch(column) for column in chosen.unbind(1))
    alone = drawn[:, 0] == drawn[:, 1]
    first[alone & swapped] = 0
    second[alone & ~swapped] = 0
    labels = torch.zeros(len(drawn), DIGITS, dtype=torch.int64)
    return ImageSet(_in_corners(first, second, generator), labels.scatter_(1, drawn, 1))


def _in_corners(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """One digit (N, C, h, w) top left, one bottom right of (N, C, 2h, 2w).

    Each is moved towards the middle by up to a quarter of its side; where they overlap, a pixel is
    the brighter of the two.
    """
    number, channels, height, width = first.shape
    images = first.new_zeros(2, number, channels, 2 * height, 2 * width)
    every = torch.arange(number)[:, None, None]
    for canvas, digits, start, sign in ((images[0], first, 0, 1), (images[1], second, 1, -1)):
        rows, columns = (
            start * side
            + sign * torch.randint(side // 4 + 1, (number, 1), generator=generator)
            + torch.arange(side)
            for side in (height, width)
        )
        # Indexing around the channels puts them last.
        canvas[every, :, rows[:, :, None], columns[:, None, :]] = digits.permute(0, 2, 3, 1)
    return torch.maximum(*images)
