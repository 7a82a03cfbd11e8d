"""Means over pairs of classes: all of them in blocks, or those of a sample of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from etf_heads.collapse._blocks import blocks

EXACT_CLASSES = 10_000
"""Classes up to which all pairs are compared: seconds for a few hundred features."""

SAMPLED_CLASSES = 1_000
"""Classes whose pairs are compared above that."""


@dataclass(frozen=True)
class PairSample:
    """The classes that are compared with all others.

    Attributes:
        classes: drawn uniformly without replacement; None for all classes up to
            :data:`EXACT_CLASSES` of them, and :data:`SAMPLED_CLASSES` above.
        seed: of the draw.
    """

    classes: int | None = None
    seed: int = 0

    def rows(self, count: int) -> Tensor | None:
        """The classes drawn of ``count``; None for all."""
        classes = self.classes
        if classes is None:
            classes = count if count <= EXACT_CLASSES else SAMPLED_CLASSES
        if classes >= count:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(count, generator=generator)[:classes]


PairFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A symmetric function of pairs: of products (n, m), and of the n and the m classes that make them.

It may write over the products only if no other function needs them.
"""


def pair_means(
    vectors: Tensor, functions: Mapping[str, PairFunction], sample: PairSample
) -> dict[str, float]:
    r"""Means over ordered pairs j != k of symmetric functions of ⟨v_k, v_j⟩, by name.

    Those of a sample are the mean over its classes k of the mean over all others j, and come with
    ``name_stderr``, the standard error of that mean (with the correction for a finite population).

    Args:
        vectors: (K, d), K at least 2; products of all pairs are made once for all functions.
        functions: by name.
        sample: of the classes k.
    """
    count = len(vectors)
    chosen = sample.rows(count)
    every = torch.arange(count, device=vectors.device)
    if chosen is None:
        totals = dict.fromkeys(functions, 0.0)
        for part in blocks(count, count):
            # The pairs on and right of the diagonal: each is met once.
            products = vectors[part] @ vectors[part.start :].T
            for name, function in functions.items():
                values = function(products, every[part], every[part.start :])
                totals[name] += float(values.triu_(1).sum())
        return {name: 2 * total / (count * (count - 1)) for name, total in totals.items()}
    chosen = chosen.to(vectors.device)
    means: dict[str, list[Tensor]] = {name: [] for name in functions}
    for part in blocks(len(chosen), count):
        own = chosen[part]
        products = vectors[own] @ vectors.T
        for name, function in functions.items():
            values = function(products, own, every).scatter_(1, own[:, None], 0)
            means[name].append(values.sum(1) / (count - 1))
    found = {}
    for name, parts in means.items():
        each = torch.cat(parts)
        found[name] = float(each.mean())
        spread = float(each.std()) if len(each) > 1 else math.nan
        found[f"{name}_stderr"] = spread * math.sqrt((1 / len(each)) * (1 - len(each) / count))
    return found


def angle_from_simplex(vectors: Tensor) -> PairFunction:
    r"""\|cos(v_k, v_j) + 1/(K-1)\|, nan for vectors of length zero."""
    simplex = 1 / (len(vectors) - 1)
    lengths = vectors.norm(dim=1)

    def function(products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        cosines = products / lengths[rows, None]
        return cosines.div_(lengths[columns]).add_(simplex).abs_()

    return function


def variance_over_distance(vectors: Tensor, variances: Tensor) -> PairFunction:
    r"""(σ_k² + σ_j²) / (2 ‖v_k - v_j‖²)."""
    squares = vectors.square().sum(1)

    def function(products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        distances = (products * -2).add_(squares[rows, None]).add_(squares[columns]).clamp_min_(0)
        return (variances[rows, None] + variances[columns]).div_(distances).mul_(0.5)

    return function
