"""Rounding to bfloat16 that is right on average, by noise that is a function of place and step."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (
    number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def stochastically_rounded(values: Tensor, rows: Tensor, step: Tensor) -> Tensor:
    r"""Rows of a matrix in bfloat16, rounded up with probability of the part that is lost.

    Sums in bfloat16 stall: of steps below half of the last digit, 0.2 to 0.4 percent of the sum,
    nearest rounding keeps none. Rounded at random, the expected value is exact (Gupta et al.,
    "Deep learning with limited numerical precision", ICML 2015). The noise is a hash of row,
    column and step (SplitMix64), so that a run that is resumed rounds as the one that was not, and
    so do all processes and devices.

    Args:
        values: (R, d), finite.
        rows: (R,) their numbers.
        step: an integer () that is another one each time.
    """
    width = values.shape[1]
    places = rows.unsqueeze(1) * width + torch.arange(width, device=rows.device)
    noise = _mixed(places + _mixed(step * _GOLDEN)) & 0xFFFF
    # Sign and magnitude: what is added to the bits moves a number away from zero.
    bits = values.float().contiguous().view(torch.int32) + noise.to(torch.int32)
    return (bits & -0x10000).view(torch.float32).to(torch.bfloat16)


def _mixed(numbers: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014); int64 stands for unsigned."""
    numbers = (numbers ^ _shifted(numbers, 30)) * _FIRST
    numbers = (numbers ^ _shifted(numbers, 27)) * _SECOND
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, places: int) -> Tensor:
    return (numbers >> places) & (2 ** (64 - places) - 1)
