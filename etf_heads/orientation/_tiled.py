"""U = alternating tiles: every feature belongs to one column."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads.orientation._base import Orientation

_FEW = 4  # tiles up to which adding them one by one is faster than a matrix product


class TiledOrientation(Orientation):
    r"""Feature j belongs to column j mod n, with sign :math:`(-1)^{\lfloor j/n \rfloor}`.

    Columns have disjoint supports of m or m + 1 features, where m = d div n, with entries
    :math:`\pm 1/\sqrt{m}` or :math:`\pm 1/\sqrt{m+1}`. All features are used. Nothing is stored,
    and a projection is a signed sum: O(d) a sample.

    When n divides d, fully collapsed features have equal variance in every coordinate, as batch
    normalisation asks of them; other sizes work, and collapse less far behind it.

    The signs alternate because features behind a ReLU are non-negative: with equal signs, what a
    column sees is mostly their common mean.

    Example:
        >>> TiledOrientation(5, 2).matrix(dtype=torch.float32)
        tensor([[ 0.5774,  0.0000],
                [ 0.0000,  0.7071],
                [-0.5774, -0.0000],
                [-0.0000, -0.7071],
                [ 0.5774,  0.0000]])
    """

    def __init__(self, in_features: int, columns: int) -> None:
        super().__init__(in_features, columns)
        self._tiles, self._rest = divmod(in_features, columns)

    def project(self, features: Tensor) -> Tensor:
        """Signed sums: (..., d) -> (..., n)."""
        whole, rest = self._split(features)
        sums = self._signed_sum(whole)
        if not self._rest:
            return sums / math.sqrt(self._tiles)
        longer = torch.add(sums[..., : self._rest], rest, alpha=self._last_sign)
        return self._normalise(longer, sums[..., self._rest :])

    def lift(self, coordinates: Tensor) -> Tensor:
        """Signed copies: (..., n) -> (..., d)."""
        scaled = self._normalise(coordinates[..., : self._rest], coordinates[..., self._rest :])
        signs = self._signs(coordinates).mT
        whole = (signs * scaled.unsqueeze(-2)).flatten(-2)
        return torch.cat([whole, self._last_sign * scaled[..., : self._rest]], dim=-1)

    def _signed_sum(self, whole: Tensor) -> Tensor:  # shape: (..., m, n) -> (..., n)
        if self._tiles > _FEW:
            # A (1, m) @ (m, n) product: faster than strided sums, in the backward pass above all.
            return (self._signs(whole) @ whole).squeeze(-2)
        first, *others = whole.unbind(-2)
        for i, tile in enumerate(others):
            first = torch.add(first, tile, alpha=1 if i % 2 else -1)
        return first

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        whole = features[..., : self._tiles * self.columns]
        rest = features[..., self._tiles * self.columns :]
        return whole.unflatten(-1, (self._tiles, self.columns)), rest

    def _signs(self, like: Tensor) -> Tensor:  # shape: (1, m)
        tile = torch.arange(self._tiles, device=like.device)
        return (1 - 2 * (tile % 2)).to(like.dtype).unsqueeze(0)

    @property
    def _last_sign(self) -> int:
        return -1 if self._tiles % 2 else 1

    def _normalise(self, longer: Tensor, shorter: Tensor) -> Tensor:
        longer, shorter = longer / math.sqrt(self._tiles + 1), shorter / math.sqrt(self._tiles)
        return torch.cat([longer, shorter], dim=-1)
