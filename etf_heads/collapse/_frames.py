"""Distances of vectors from a simplex ETF, and between two frames.

All take rows as vectors and work in the dtype given, float64 in this package. A vector of length
zero has no direction: it becomes nan, and so does every mean that it enters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads.collapse._blocks import blocks
from etf_heads.collapse._pairs import PairSample, angle_from_simplex, pair_means


def centred(vectors: Tensor) -> Tensor:
    """Rows less their mean: logits change by the same for all classes, which softmax ignores."""
    return vectors - vectors.mean(0)


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows scaled to length one; rows of zeros become nan."""
    norms: Tensor = vectors.norm(dim=1, keepdim=True)
    return vectors / norms


def norm_variation(vectors: Tensor, *, correction: int = 0) -> float:
    r"""Coefficient of variation of the rows' lengths, std/mean: 0 when all are equal.

    Args:
        vectors: (K, d).
        correction: 1 divides by K - 1 in the standard deviation, 0 by K.

    Example:
        >>> import torch
        >>> norm_variation(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        0.5
    """
    norms = vectors.norm(dim=1)
    return float(norms.std(correction=correction) / norms.mean())


def angle_deviation(vectors: Tensor) -> float:
    r"""Mean over pairs of rows of :math:`|\cos(v_k, v_j) + 1/(K-1)|`: 0 for a simplex ETF.

    Example:
        >>> import torch
        >>> angle_deviation(torch.eye(3))  # cosines are 0, not -1/2
        0.5
    """
    vectors = at_unit_scale(vectors)
    every = PairSample(len(vectors))
    return pair_means(vectors, {"angle": angle_from_simplex(vectors)}, every)["angle"]


def gram_deviation(vectors: Tensor) -> float:
    r"""Frobenius distance of the normalised Gram matrix to that of the simplex ETF.

    Zhu et al., "A geometric analysis of neural collapse with unconstrained features" (NeurIPS
    2021): :math:`\| G/\|G\|_F - P/\sqrt{K-1} \|_F` with G = VVᵀ and P = I - 11ᵀ/K.
    """
    # G = PGP + rest, orthogonal to each other. PGP shares its eigenvectors with P, whose
    # eigenvalues on them are all equal: the distance is between eigenvalues, in O(K d²) and
    # without K x K numbers. The rest is that of the mean row m: PVm 1ᵀ + its transpose + m² 11ᵀ.
    vectors = at_unit_scale(vectors)
    count, dim = vectors.shape
    mean = vectors.mean(0)
    rows = vectors - mean
    product = rows @ rows.T if count <= dim else rows.T @ rows
    values = torch.linalg.eigvalsh(product).clamp_min(0).flip(0)[: count - 1]
    squares = 2 * count * (rows @ mean).square().sum() + (count * mean.square().sum()).square()
    total = values.square().sum() + squares
    gaps = values / total.sqrt() - 1 / math.sqrt(count - 1)
    absent = (count - 1 - len(values)) / (count - 1)
    return math.sqrt(float(gaps.square().sum() + squares / total) + absent)


def product_deviation(weight: Tensor, means: Tensor) -> float:
    r"""Frobenius distance of the normalised :math:`W M^\top` to the simplex ETF's Gram matrix.

    The self-duality of Zhu et al. (NeurIPS 2021), means as rows here:
    :math:`\| W M^\top/\|W M^\top\|_F - (I - 11^\top/K)/\sqrt{K-1} \|_F`. In O(K d²) when K
    exceeds 2d, else in blocks of bounded memory.
    """
    weight, means = at_unit_scale(weight), at_unit_scale(means)
    size, dim = weight.shape
    simplex = 1 / math.sqrt(size - 1)
    if size > 2 * dim:
        # A product of rank d is far from one of rank K - 1: nothing cancels in 2 - 2<., .>.
        norm = math.sqrt(float(((weight.T @ weight) * (means.T @ means)).sum()))
        along = (weight * means).sum() - size * (weight.mean(0) * means.mean(0)).sum()
        return math.sqrt(2 - 2 * simplex * float(along) / norm) if norm > 0 else math.nan
    norm = math.sqrt(sum(float((weight[r] @ means.T).square().sum()) for r in blocks(size, size)))
    total = 0.0
    # Distances entry by entry: the shorter 2 - 2 <.,.> would lose half the digits near 0.
    for rows in blocks(size, size):
        gap = (weight[rows] @ means.T).div_(norm).add_(simplex / size)
        gap.diagonal(offset=rows.start).sub_(simplex)
        total += float(gap.square().sum())
    return math.sqrt(total)


def duality_gap(weight: Tensor, means: Tensor) -> float:
    r"""Squared Frobenius distance :math:`\|W/\|W\|_F - M/\|M\|_F\|_F^2` (Papyan et al. 2020)."""
    weight, means = at_unit_scale(weight), at_unit_scale(means)
    return float((weight / weight.norm() - means / means.norm()).square().sum())


def direction_gap(weight: Tensor, means: Tensor) -> float:
    r"""Mean over rows of the squared distance of directions, ‖m̃_k - w̃_k‖²."""
    return float((unit_rows(weight) - unit_rows(means)).square().sum(1).mean())


def cross_coherence(frames: tuple[Tensor, ...]) -> float:
    r"""Mean :math:`|\cos(v, v')|` over rows v and v' of different frames, all pairs the same.

    nan when there is only one frame.
    """
    total, pairs = 0.0, 0
    directions = [unit_rows(frame) for frame in frames]
    for t, first in enumerate(directions):
        for second in directions[t + 1 :]:
            for rows in blocks(len(first), len(second)):
                total += float((first[rows] @ second.T).abs_().sum())
            pairs += len(first) * len(second)
    return total / pairs if pairs else math.nan


def at_unit_scale(vectors: Tensor) -> Tensor:
    """Vectors over their largest entry: products of what is left neither over- nor underflow."""
    largest = vectors.abs().amax()
    return vectors / torch.where(largest > 0, largest, 1)
