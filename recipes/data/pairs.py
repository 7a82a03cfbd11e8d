"""Images composed of two pictures of one object each, which stand for two tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from recipes.data.images import ImageData, ImageSet
from recipes.data.options import DataOptions
from recipes.data.pictures import Pictures
from recipes.data.sampling import allocate, check_complete, tuple_weights

MOST_PERMUTED = 1 << 20

Arrangement = Callable[[Tensor, Tensor], Tensor]
"""Two batches of pictures (N, C, h, w) -> images (N, C, H, W)."""


def composed(
    train: Pictures,
    test: Pictures,
    tasks: Mapping[str, int],
    options: DataOptions,
    arrange: Arrangement,
    *,
    train_images: int,
    test_images: int,
    shift: int,
) -> ImageData:
    """Train and test images of two pictures each, every label pair as often as options say.

    Args:
        train: pictures that training images are made of.
        test: pictures that test images are made of; all their label pairs are balanced.
        tasks: the two tasks' names and numbers of classes.
        options: numbers of images, and the distribution of label pairs in training.
        arrange: puts two pictures into one image.
        train_images: training images unless options say how many.
        test_images: test images unless options say how many.
        shift: see :class:`ImageData`.
    """
    sizes = tuple(tasks.values())
    pairs = torch.cartesian_prod(*(torch.arange(k) for k in sizes))
    weights = tuple_weights(pairs, tasks, options)
    balanced = torch.ones(len(pairs))

    def part(pictures: Pictures, weights: Tensor, total: int) -> ImageSet:
        by_class = [(pictures.labels == k).nonzero().squeeze(1) for k in range(max(sizes))]
        members = torch.tensor([len(own) for own in by_class])
        available = members[pairs[:, 0]] * members[pairs[:, 1]]
        numbers = allocate(pairs, weights, available, total).reshape(sizes)
        left, right, labels = draw_pairs(by_class, numbers)
        return ImageSet(arrange(pictures.fetch(left), pictures.fetch(right)), labels)

    data = ImageData(
        tasks=dict(tasks),
        train=part(
            train, balanced if weights is None else weights, options.train_images or train_images
        ),
        test=part(test, balanced, options.test_images or test_images),
        shift=shift,
    )
    check_complete(tasks, data.train.labels, data.test.labels)
    return data


def draw_pairs(by_class: Sequence[Tensor], numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left pictures, right pictures and labels (N, 2), no pair of pictures twice, by a fixed seed.

    Args:
        by_class: indices of the pictures to use, a tensor for each class.
        numbers: (K_1, K_2) images for each (left class, right class).
    """
    generator = torch.Generator().manual_seed(0)
    left, right, labels = [], [], []
    for i, row in enumerate(numbers.tolist()):
        for j, number in enumerate(row):
            lefts, rights = by_class[i], by_class[j]
            chosen = _distinct(len(lefts) * len(rights), number, generator)
            left.append(lefts[chosen // len(rights)])
            right.append(rights[chosen % len(rights)])
            labels.append(torch.tensor([i, j]).expand(number, 2))
    return torch.cat(left), torch.cat(right), torch.cat(labels)


def _distinct(population: int, number: int, generator: torch.Generator) -> Tensor:
    if population <= MOST_PERMUTED:
        return torch.randperm(population, generator=generator)[:number]
    # A permutation of the 36 million pairs of two MNIST digits would take seconds.
    seed = int(torch.randint(1 << 62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).choice(population, number, replace=False))


def beside(first: Tensor, second: Tensor) -> Tensor:
    """One picture left of the other: (N, C, h, w) twice to (N, C, h, 2w)."""
    return torch.cat([first, second], dim=3)


def in_corners(canvas: int) -> Arrangement:
    """One picture top left, one bottom right on a black square of this side.

    Where they overlap, a pixel is the brighter of the two.
    """

    def arrange(first: Tensor, second: Tensor) -> Tensor:
        number, channels, height, width = first.shape
        images = first.new_zeros(number, channels, canvas, canvas)
        images[..., :height, :width] = first
        corner = images[..., -height:, -width:]
        torch.maximum(corner, second, out=corner)
        return images

    return arrange


def split_by_class(labels: Tensor, test_share: float) -> tuple[list[Tensor], list[Tensor]]:
    """Indices of each class, (train, test), drawn with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    for k in range(int(labels.max()) + 1):
        members = (labels == k).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = round(test_share * len(members))
        test.append(members[:held_out])
        train.append(members[held_out:])
    return train, test


def side_by_side(scans: Tensor, by_class: list[Tensor], images_per_pair: int | Tensor) -> ImageSet:
    """Compose scans (n, h, w) into images (N, 1, h, 2w), a stated number for each pair of classes.

    Args:
        scans: uint8 pictures of one object each.
        by_class: indices of the scans to use, a tensor for each class.
        images_per_pair: images for each (left class, right class), each of two other scans: one
            number, or a matrix of shape (K, K).
    """
    numbers = torch.as_tensor(images_per_pair).expand(len(by_class), len(by_class))
    left, right, labels = draw_pairs(by_class, numbers)
    scans = scans.unsqueeze(1)
    return ImageSet(beside(scans[left], scans[right]), labels)
