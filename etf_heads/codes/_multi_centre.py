"""Several centres a class, more for rare ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, get_args

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, class_count, positive_int
from etf_heads.codes._base import Code
from etf_heads.geometry import helmert, helmert_expand, simplex_scale

Reduce = Literal["sum", "direction"]


class MultiCentreCode(Code):
    r"""Class vectors made of several centres a class, around a simplex ETF.

    "Neural collapse to multiple centers for imbalanced data" (NeurIPS 2024) gives class k the
    centres

    .. math:: w_{kj} = \cos\theta\, v_{kj} + \sin\theta\, w_k, \qquad j = 1, \dots, f_k

    and rare classes more of them. That formula is the paper's; what follows is our reading: the
    :math:`w_k` are a simplex ETF, and all :math:`v_{kj}` orthonormal and orthogonal to it, in
    :math:`\sum f_k + K - 1` columns. The mean of a class's centres then has

    .. math:: |m_k|^2 = \sin^2\theta + \cos^2\theta / f_k, \qquad
              m_k^\top m_l = -\sin^2\theta / (K - 1).

    A class is scored by the sum of its centres' scores, a class vector :math:`f_k m_k`
    (``reduce="sum"``), which favours classes of many centres; or by their direction,
    :math:`m_k / |m_k|` (``reduce="direction"``). :class:`~etf_heads.losses.CentreCosine` draws
    features to the centres of their class.

    Args:
        centres: :math:`f_k`, the number of centres of each of the K classes.
        theta: θ in radians, from 0 (all centres orthogonal) to π/2 (one centre a class); 0.2 in
            the paper.
        reduce: "sum" or "direction".

    Raises:
        ValueError: if there are fewer than two classes, a class without a centre, or θ or reduce
            is not possible.

    Example:
        >>> code = MultiCentreCode([1, 2, 4], theta=0.2)
        >>> code.rows, code.columns, code.centre_vectors().shape
        (3, 9, torch.Size([7, 9]))
        >>> code.matrix().norm(dim=1).square()  # f² sin²θ + f cos²θ
        tensor([1.0000, 2.0789, 4.4736], dtype=torch.float64)
    """

    def __init__(self, centres: Sequence[int], theta: float = 0.2, reduce: Reduce = "sum") -> None:
        if not isinstance(centres, Sequence) or isinstance(centres, str):
            raise ValueError(f"centres must list a number of centres a class, got {centres!r}")
        sizes = tuple(positive_int(f, f"centres[{k}]") for k, f in enumerate(centres))
        class_count(len(sizes), "the number of classes in centres")
        if not 0 <= theta <= math.pi / 2:
            raise ValueError(f"theta must be from 0 to pi/2, got {theta!r}")
        if reduce not in get_args(Reduce):
            raise ValueError(f"reduce must be 'sum' or 'direction', got {reduce!r}")
        super().__init__(Tasks((len(sizes),), single=True), sum(sizes) + len(sizes) - 1)
        self.centres, self.theta, self.reduce = sizes, float(theta), reduce
        self._runs = tuple(_runs(sizes))

    def expand(self, coordinates: Tensor) -> Tensor:
        """Products C z: (..., columns) -> (..., K)."""
        simplex, own = self._parts(coordinates)
        means = self._mean_by_class(own)
        weight = torch.tensor(self._factors(), dtype=means.dtype, device=means.device)
        return (math.sin(self.theta) * simplex + math.cos(self.theta) * means) * weight

    def vectors(self, indices: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows of C: (...) -> (..., columns)."""
        device, count = indices.device, self.rows
        sizes = torch.tensor(self.centres, device=device)
        ends = sizes.cumsum(0)
        columns = torch.arange(self.columns - count + 1, device=device)
        first = (ends - sizes)[indices, None]
        own = ((columns >= first) & (columns < ends[indices, None])).to(torch.float64)
        simplex = helmert(count, device=device)[indices] * simplex_scale(count)
        weight = torch.tensor(self._factors(), dtype=torch.float64, device=device)[indices, None]
        parts = [
            math.sin(self.theta) * simplex,
            math.cos(self.theta) * own / sizes[indices, None],
        ]
        return (weight * torch.cat(parts, dim=-1)).to(dtype)

    def centre_products(self, coordinates: Tensor) -> Tensor:
        """Products of all centres, class by class, with z: (..., columns) -> (..., sum f_k)."""
        simplex, own = self._parts(coordinates)
        runs = [simplex[..., rows].repeat_interleave(size, dim=-1) for rows, _, size in self._runs]
        return math.sin(self.theta) * torch.cat(runs, dim=-1) + math.cos(self.theta) * own

    def centre_means(self, values: Tensor) -> Tensor:
        """Means over the centres of each class: (..., sum f_k) -> (..., K)."""
        return self._mean_by_class(values)

    def centre_vectors(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Tensor:
        """All centres, class by class: unit vectors (sum f_k, columns)."""
        return self.centre_products(torch.eye(self.columns, dtype=dtype, device=device)).mT

    def _parts(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Products with the simplex ETF (..., K), and with all v_kj (..., sum f_k)."""
        helmert_part, own = coordinates.split([self.rows - 1, self.columns - self.rows + 1], dim=-1)
        return helmert_expand(helmert_part) * simplex_scale(self.rows), own

    def _mean_by_class(self, values: Tensor) -> Tensor:
        runs = [
            values[..., columns].unflatten(-1, (-1, size)).mean(-1)
            for _, columns, size in self._runs
        ]
        return runs[0] if len(runs) == 1 else torch.cat(runs, dim=-1)

    def _factors(self) -> list[float]:
        """The class vector over the mean of the class's centres, class by class."""
        if self.reduce == "sum":
            return [float(size) for size in self.centres]
        sine, cosine = math.sin(self.theta) ** 2, math.cos(self.theta) ** 2
        return [1 / math.sqrt(sine + cosine / size) for size in self.centres]

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        centres = sum(self.centres)
        return f"{super().extra_repr()}, {centres=}, theta={self.theta:g}, reduce={self.reduce}"


def _runs(centres: Sequence[int]) -> Iterator[tuple[slice, slice, int]]:
    """Classes, columns and number of centres of neighbours that have as many."""
    row = column = 0
    for size, run in groupby(centres):
        count = len(list(run))
        yield slice(row, row + count), slice(column, column + count * size), size
        row, column = row + count, column + count * size
