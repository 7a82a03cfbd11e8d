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
        self._root = math.sqrt(self._tiles)

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
        return self._shorten_(sums.mul_(scale / self._root))

    def raw_lift(self, coordinates: Tensor, scale: float | Tensor) -> Tensor:
        """Signed copies: (..., n) -> (..., d)."""
        lifted = coordinates.new_empty((*coordinates.shape[:-1], self.in_features))
        first = _write(lifted.narrow(-1, 0, self.columns), coordinates, scale / self._root)
        self._shorten_(first)
        if self._tiles > _FEW:
            whole = lifted.narrow(-1, 0, self._tiles * self.columns).unflatten(
                -1, (self._tiles, self.columns)
            )
            signs = self._signs(lifted)[1:].unsqueeze(-1)
            _write(whole.narrow(-2, 1, self._tiles - 1), first.unsqueeze(-2), signs)
        else:
            for i in range(1, self._tiles):
                _write(lifted.narrow(-1, i * self.columns, self.columns), first, _sign(i))
        if self._rest:
            rest = lifted.narrow(-1, self._tiles * self.columns, self._rest)
            _write(rest, first.narrow(-1, 0, self._rest), _sign(self._tiles))
        return lifted

    def _sum_of_many(self, features: Tensor) -> Tensor:
        # A (1, m) @ (m, n) product: faster than many strided sums.
        whole = features.narrow(-1, 0, self._tiles * self.columns)
        grid = whole.unflatten(-1, (self._tiles, self.columns))
        return (self._signs(features).unsqueeze(0) @ grid).squeeze(-2)

    def _signs(self, like: Tensor) -> Tensor:
        return (1 - 2 * (torch.arange(self._tiles, device=like.device) % 2)).to(like.dtype)

    def _shorten_(self, coordinates: Tensor) -> Tensor:
        """From the norm 1 of m entries to that of m + 1, where a column has one more."""
        if self._rest:
            longer = coordinates.narrow(-1, 0, self._rest)
            longer.mul_(math.sqrt(self._tiles / (self._tiles + 1)))
        return coordinates


def _write(target: Tensor, source: Tensor, factor: float | Tensor) -> Tensor:
    """Put a multiple of the source into the target, which is a view."""
    if is_traced():  # by what cannot see through out=
        return target.copy_(source * factor)
    return torch.mul(source, factor, out=target)


def _sign(tile: int) -> int:
    return -1 if tile % 2 else 1
