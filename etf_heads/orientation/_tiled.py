"""U = alternating tiles: every feature belongs to one column."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads._tracing import is_recorded, is_traced
from etf_heads.orientation._structured import StructuredOrientation

_FEW = 8  # periods up to which adding them one by one is faster than one sum over them


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
        # The signs repeat after two tiles: a period, in which the second is minus the first.
        self._tiles, self._rest = divmod(in_features, columns)
        self._periods, self._tail = divmod(in_features, 2 * columns)
        self._root = math.sqrt(self._tiles)

    def raw_project(self, features: Tensor, scale: float) -> Tensor:
        """Signed sums: (..., d) -> (..., n)."""
        if is_recorded():
            return self._padded_project(features, scale)
        n = self.columns
        tail = features.narrow(-1, self.in_features - self._tail, self._tail)
        if self._periods:
            period = self._sum_of_periods(features)
            sums = period.narrow(-1, 0, n) - period.narrow(-1, n, n)
            if self._tail:
                width = min(n, self._tail)
                sums.narrow(-1, 0, width).add_(tail.narrow(-1, 0, width))
        else:
            sums = tail.narrow(-1, 0, n).clone()
        if self._tail > n:
            width = self._tail - n
            sums.narrow(-1, 0, width).sub_(tail.narrow(-1, n, width))
        return self._shorten_(sums.mul_(scale / self._root))

    def raw_lift(self, coordinates: Tensor, scale: float | Tensor) -> Tensor:
        """Signed copies: (..., n) -> (..., d)."""
        n = self.columns
        lifted = coordinates.new_empty((*coordinates.shape[:-1], self.in_features))
        first = _write(lifted.narrow(-1, 0, n), coordinates, scale / self._root)
        self._shorten_(first)
        width = min(n, self.in_features - n)
        _write(lifted.narrow(-1, n, width), first.narrow(-1, 0, width), -1)
        if self._periods > 1:
            period = lifted.narrow(-1, 0, 2 * n)
            others = lifted.narrow(-1, 2 * n, (self._periods - 1) * 2 * n)
            others.unflatten(-1, (-1, 2 * n)).copy_(period.unsqueeze(-2))
        if self._periods and self._tail:
            tail = lifted.narrow(-1, self.in_features - self._tail, self._tail)
            tail.copy_(lifted.narrow(-1, 0, self._tail))
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

    def _sum_of_periods(self, features: Tensor) -> Tensor:
        if self._periods == 1:
            return features
        if self._periods > _FEW:
            whole = features.narrow(-1, 0, self._periods * 2 * self.columns)
            return whole.unflatten(-1, (self._periods, 2 * self.columns)).sum(-2)
        periods = features.split(2 * self.columns, dim=-1)  # the last may be shorter
        total = periods[0] + periods[1]
        for i in range(2, self._periods):
            total.add_(periods[i])
        return total

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
