"""What happens to a batch of uint8 images on its way into the network, on their own device."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def batch_generator(device: torch.device, *moment: int) -> torch.Generator:
    """Random numbers that depend on nothing but a moment of the run: (seed, epoch, batch, process).

    A run resumed at that moment draws the same numbers, with no generator state to save.
    """
    digest = hashlib.sha256(repr(moment).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def random_shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``pixels`` each way, with black coming in: (B, C, H, W) both."""
    batch, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, [pixels] * 4)
    moves = torch.randint(2 * pixels + 1, (2, batch, 1), generator=generator, device=device)
    rows = torch.arange(height, device=device) + moves[0]
    columns = torch.arange(width, device=device) + moves[1]
    every = torch.arange(batch, device=device)[:, None, None]
    # Indexing around the channels puts them last, which is the layout that convolutions like best.
    return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image, left to right, with probability one half: (B, C, H, W) both."""
    mirrored = torch.randint(2, (len(images), 1, 1, 1), generator=generator, device=images.device)
    return torch.where(mirrored.bool(), images.flip(3), images)


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
