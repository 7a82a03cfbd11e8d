"""U = alternating tiles: every feature belongs to one column."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads._tracing import is_recorded, is_traced
from etf_heads.orientation._structured import StructuredOrientation, centre_

_FEW = 16  # tiles up to which adding them one by one is faster than one sum over pairs of them


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
        # From the norm 1 of m entries to that of m + 1, where a column has one more.
        self._longer = math.sqrt(self._tiles / (self._tiles + 1))

    def raw_project(self, features: Tensor, scale: float) -> Tensor:
        """Signed sums: (..., d) -> (..., n)."""
        if is_recorded():
            return self._padded_project(features, scale)
        sums, others, sign = self._first_sums(features)
        for tile in others:
            if tile.shape[-1] == self.columns:
                sums.add_(tile, alpha=sign)
            else:
                sums.narrow(-1, 0, self._rest).add_(tile, alpha=sign).mul_(self._longer)
            sign = -sign
        return sums.mul_(scale / self._root)

    def raw_lift(self, coordinates: Tensor, scale: float) -> Tensor:
        """Signed copies: (..., n) -> (..., d)."""
        return self._lift(coordinates, scale, 0)

    def _lift(self, coordinates: Tensor, scale: float, centred: int) -> Tensor:
        n, d = self.columns, self.in_features
        lifted = coordinates.new_empty((*coordinates.shape[:-1], d))
        first = lifted.narrow(-1, 0, n)
        if is_traced():  # by what cannot see through out=
            first.copy_(coordinates * (scale / self._root))
        else:
            torch.mul(coordinates, scale / self._root, out=first)
        if centred:
            centre_(first, centred)
        if self._rest:
            first.narrow(-1, 0, self._rest).mul_(self._longer)
        filled = n
        while filled < d:  # by what is there, twice as much each time
            width = min(filled, d - filled)
            source, target = lifted.narrow(-1, 0, width), lifted.narrow(-1, filled, width)
            if filled > n:
                target.copy_(source)
            elif is_traced():
                target.copy_(-source)
            else:
                torch.neg(source, out=target)
            filled += width
        return lifted

    def _padded_project(self, features: Tensor, scale: float) -> Tensor:
        """The same, with nothing written into a view: the features padded to whole periods."""
        n = self.columns
        periods = -(-self.in_features // (2 * n))
        padded = F.pad(features, (0, 2 * n * periods - self.in_features))
        sums = padded.unflatten(-1, (periods, 2, n)).sum(-3)
        sums = sums.narrow(-2, 0, 1) - sums.narrow(-2, 1, 1)
        entries = [self._tiles + (j < self._rest) for j in range(n)]
        return sums.flatten(-2) * (scale / features.new_tensor(entries).sqrt())

    def _first_sums(self, features: Tensor) -> tuple[Tensor, Sequence[Tensor], int]:
        """A signed sum of some tiles, in a new tensor; the others, and the sign of their first."""
        n, pairs = self.columns, self._tiles // 2
        if self._tiles <= _FEW:
            first, *others = features.split(n, dim=-1)
            return (first - others[0], others[1:], 1) if pairs else (first.clone(), others, -1)
        paired = features.narrow(-1, 0, 2 * n * pairs).unflatten(-1, (pairs, 2, n))
        plus, minus = paired.sum(-3).unbind(-2)
        tail = self.in_features - 2 * n * pairs
        others = features.narrow(-1, 2 * n * pairs, tail).split(n, dim=-1) if tail else ()
        return plus - minus, others, 1
