"""A uniform sample of bounded size, drawn in one pass, that merges across processes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """Samples with random priorities; those of smallest priority are a uniform sample.

    "Bottom-k" sampling (Cohen and Kaplan, 2007): the n smallest of a union are among the n
    smallest of each part, so that samples of parts merge into a sample of the whole.

    Attributes:
        priorities: (n,) float64 in [0, 1).
        features: (n, d) float64.
        labels: (n,) int64, or (n, T).
    """

    priorities: Tensor
    features: Tensor
    labels: Tensor

    @classmethod
    def draw(cls, features: Tensor, labels: Tensor, source_of_seeds: random.Random) -> Sample:
        """All of a batch, with priorities that depend on the seed and not on the device."""
        generator = torch.Generator().manual_seed(source_of_seeds.getrandbits(63))
        priorities = torch.rand(len(features), generator=generator, dtype=torch.float64)
        return cls(priorities.to(features.device), features.detach().to(torch.float64), labels)

    def smallest(self, size: int) -> Sample:
        """The (at most) ``size`` samples of smallest priority, in that order."""
        kept = self.priorities.argsort(stable=True)[:size]
        return Sample(self.priorities[kept], self.features[kept], self.labels[kept])
