"""Images in memory with one label a task, and how a run takes batches of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader, Dataset

from recipes.data.options import Randomised

NO_LABEL = -100
"""The label of a task that an image has none of, as PyTorch's losses have it."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, C, H, W), labels (B, T), and which images of the set these are (B,)."""


@dataclass(frozen=True)
class ImageSet(Dataset[Batch]):
    """Images with one label a task.

    Attributes:
        images: uint8 (N, channels, height, width).
        labels: int64 (N, T); ``NO_LABEL`` where an image has no label of a task. Of label sets,
            0 and 1 (N, K).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        """A whole batch at once; DataLoader prefers this to one ``__getitem__`` a sample."""
        device = self.images.device
        # From memory that is not pinned, a GPU's copy would be waited for.
        chosen = torch.tensor(indices, pin_memory=device.type == "cuda")
        chosen = chosen.to(device, non_blocking=True)
        return self.images[chosen], self.labels[chosen], chosen

    def of(self, chosen: Tensor) -> ImageSet:
        """Some of the images."""
        return ImageSet(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> ImageSet:
        """The same set on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """A data set: its tasks, and training and test images.

    Attributes:
        tasks: number of classes of each task, in the order of the label columns.
        train: what is learned from.
        test: what is held out.
        shift: training images are moved by up to this many pixels each way.
        flip: whether training images are mirrored at random.
        label_sets: whether images have any number of labels of a single task.
    """

    tasks: dict[str, int]
    train: ImageSet
    test: ImageSet
    shift: int
    flip: bool = False
    label_sets: bool = False

    def shrunk(self, size: int) -> ImageData:
        """Square images of this side; each pixel is the mean over an area."""
        side = self.train.images.shape[-1]
        if size > side:
            raise ValueError(f"image_size={size}: the images have {side} x {side} pixels")
        train, test = (
            ImageSet(adaptive_avg_pool2d(part.images.float(), size).round().byte(), part.labels)
            for part in (self.train, self.test)
        )
        return replace(self, train=train, test=test, shift=self.shift * size // side)

    def randomised(self, what: Randomised) -> ImageData:
        """The same sizes, without anything that relates images to labels, by a fixed seed.

        Args:
            what: "labels" of a split are given to other images of it; or "pixels" are drawn anew,
                uniformly, each on its own.
        """
        generator = torch.Generator().manual_seed(0)

        def changed(part: ImageSet) -> ImageSet:
            if what == "labels":
                order = torch.randperm(len(part), generator=generator)
                return replace(part, labels=part.labels[order])
            shape = part.images.shape
            pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
            return replace(part, images=pixels)

        return replace(self, train=changed(self.train), test=changed(self.test))

    def validated(self, share: float) -> ImageData:
        """Training images alone: a share of them, always the same ones, in place of the tests."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        held_out, learned = order.split(
            [round(share * len(order)), len(order) - round(share * len(order))]
        )
        return replace(self, train=self.train.of(learned), test=self.train.of(held_out))

    def to(self, device: torch.device) -> ImageData:
        """The same data on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def has_own_samples(labels: Tensor) -> bool:
    """Whether tasks label samples of their own (multi-source): a label is missing somewhere."""
    return bool((labels == NO_LABEL).any())


def train_loader(data: ImageSet, batch_size: int) -> DataLoader[Batch]:
    """Shuffled whole batches, for Accelerate to prepare.

    The loader has a generator of its own since it draws a seed at the start of every epoch: from
    the global generator, a run resumed in mid-epoch would draw once more than one that ran through,
    and dropout would diverge.
    """
    return DataLoader(
        data,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )


def _as_it_is(batch: Any) -> Any:
    return batch
