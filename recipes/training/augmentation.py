"""Augmentation of uint8 images in batches, on their own device, and their standardisation."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Augmentation:
    """Random shifts and mirror images, drawn for all images of a set at the start of an epoch.

    What an image gets depends on the seed, the epoch and the image, and on nothing else: it is the
    same in every batch size, on any number of processes, and in a run that is resumed.

    Args:
        images: number of images in the set.
        pixels: largest shift, each way.
        flip: whether to mirror half of them, left to right.
        seed: of the run.
        device: of the images.
    """

    def __init__(
        self, images: int, pixels: int, *, flip: bool, seed: int, device: torch.device
    ) -> None:
        self.images, self.pixels, self.flip = images, pixels, flip
        self.seed, self.device = seed, device

    def start_epoch(self, epoch: int) -> None:
        """Draw the moves (2, N) and mirrorings (N,) of an epoch."""
        digest = hashlib.sha256(repr((self.seed, epoch)).encode()).digest()
        generator = torch.Generator(self.device).manual_seed(int.from_bytes(digest[:7], "little"))
        self.moves = torch.randint(
            2 * self.pixels + 1, (2, self.images), generator=generator, device=self.device
        )
        self.mirrored = torch.randint(
            2, (self.images,), generator=generator, device=self.device
        ).bool()

    def __call__(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Augmented images (B, C, H, W); ``chosen`` (B,) says which of the set they are."""
        images = shifted(images, self.moves[:, chosen], self.pixels)
        return mirrored(images, self.mirrored[chosen]) if self.flip else images


def shifted(images: Tensor, moves: Tensor, pixels: int) -> Tensor:
    """Images (B, C, H, W) moved down and right by ``pixels`` less moves (2, B), on black."""
    _, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, [pixels] * 4)
    rows = torch.arange(height, device=device) + moves[0, :, None]
    columns = torch.arange(width, device=device) + moves[1, :, None]
    every = torch.arange(len(images), device=device)[:, None, None]
    # Indexing around the channels puts them last, which is the layout that convolutions like best.
    return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirrored(images: Tensor, which: Tensor) -> Tensor:
    """Images (B, C, H, W) of which those that ``which`` (B,) names are mirrored, left to right."""
    return torch.where(which[:, None, None, None], images.flip(3), images)


class Standardise(nn.Module):
    """uint8 images to floats of mean 0 and deviation 1 in each channel, as over the given images.

    Its buffers follow from the data, so they are not saved.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        channels = images.transpose(0, 1).flatten(1).double()  # shape: (C, N H W)
        self.register_buffer("mean", channels.mean(1).float()[:, None, None], persistent=False)
        self.register_buffer("deviation", channels.std(1).float()[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> float32."""
        floats = images.to(torch.float32, memory_format=torch.channels_last)
        return (floats - self.mean) / self.deviation
