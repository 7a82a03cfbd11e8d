"""U = alternating tiles: every feature belongs to one column."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads._tracing import is_traced
from etf_heads.orientation._structured import StructuredOrientation

_FEW = 8  # tiles up to which adding them one by one is faster than a matrix product


class TiledOrientation(StructuredOrientation):
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

    def raw_project(self, features: Tensor, scale: float) -> Tensor:
        """Signed sums: (..., d) -> (..., n)."""
        tiles = features.split(self.columns, dim=-1)  # the last may be shorter
        if self._tiles > _FEW:
            sums = self._sum_of_many(features)
        else:
            sums = tiles[0] - tiles[1] if self._tiles > 1 else tiles[0].clone()
            for i in range(2, self._tiles):
                sums.add_(tiles[i], alpha=_sign(i))
        if self._rest:
            sums.narrow(-1, 0, self._rest).add_(tiles[-1], alpha=_sign(self._tiles))
        return self._shorten_(sums.mul_(scale / math.sqrt(self._tiles)))

    def raw_lift(self, coordinates: Tensor, scale: float) -> Tensor:
        """Signed copies: (..., n) -> (..., d)."""
        lifted = coordinates.new_empty((*coordinates.shape[:-1], self.in_features))
        first = _write(self._tile(lifted, 0), coordinates, scale / math.sqrt(self._tiles))
        self._shorten_(first)
        for i in range(1, self._tiles + bool(self._rest)):
            tile = self._tile(lifted, i)
            _write(tile, first.narrow(-1, 0, tile.shape[-1]), _sign(i))
        return lifted

    def _tile(self, features: Tensor, i: int) -> Tensor:
        start = i * self.columns
        return features.narrow(-1, start, min(self.columns, self.in_features - start))

    def _sum_of_many(self, features: Tensor) -> Tensor:
        # A (1, m) @ (m, n) product: faster than many strided sums.
        whole = features.narrow(-1, 0, self._tiles * self.columns)
        signs = 1 - 2 * (torch.arange(self._tiles, device=features.device) % 2)
        grid = whole.unflatten(-1, (self._tiles, self.columns))
        return (signs.to(features.dtype).unsqueeze(0) @ grid).squeeze(-2)

    def _shorten_(self, coordinates: Tensor) -> Tensor:
        """From the norm 1 of m entries to that of m + 1, where a column has one more."""
        if self._rest:
            longer = coordinates.narrow(-1, 0, self._rest)
            longer.mul_(math.sqrt(self._tiles / (self._tiles + 1)))
        return coordinates


def _write(target: Tensor, source: Tensor, factor: float) -> Tensor:
    """Put a multiple of the source into the target, which is a view."""
    if is_traced():  # by what cannot see through out=
        return target.copy_(source * factor)
    return torch.mul(source, factor, out=target)


def _sign(tile: int) -> int:
    return -1 if tile % 2 else 1
