"""Passes over the scores of many bases, a few bases at a time: no sample's scores are ever kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from etf_heads.geometry import WalshHadamard

_CPU_TILE, _GPU_TILE = 2**18, 2**24  # scores: what stays in a cache; what keeps a GPU busy


@dataclass(frozen=True)
class Tile:
    """Scores of neighbouring lines.

    Attributes:
        start: the first of the lines.
        scores: (lines, samples), a new tensor unless it is that of the identity.
    """

    start: int
    scores: Tensor
    _transform: WalshHadamard | None
    _signs: Tensor | None
    _before: int
    _size: int

    @property
    def lines(self) -> slice:
        """The lines of the tile."""
        return slice(self.start, self.start + len(self.scores))

    def lift(self, values: Tensor) -> Tensor:
        """The transpose: (lines, samples) -> (n, samples)."""
        after = self._size - self._before - len(values)
        if self._before or after:
            values = F.pad(values, (0, 0, self._before, after))
        if self._transform is None or self._signs is None:
            return values
        spectra = self._transform(values.unflatten(0, (len(self._signs), -1)), -2)
        if len(self._signs) == 1:
            return spectra[0].mul_(self._signs.mT)
        return (spectra * self._signs.unsqueeze(-1)).sum(0)


def tiles(coordinates: Tensor, signs: Tensor, lines: slice) -> Iterator[Tile]:
    """Scores of a range of lines, tile by tile.

    Args:
        coordinates: (n, samples), contiguous.
        signs: (bases - 1, n) of :class:`~etf_heads.codes.BasesCode`.
        lines: a start and a stop.
    """
    n, samples = coordinates.shape
    first, last = lines.start, lines.stop
    if first < n:
        stop = min(last, n)
        yield Tile(first, coordinates[first:stop], None, None, first, n)
    if last <= n:
        return
    transform = WalshHadamard(n, coordinates.dtype, coordinates.device)
    step = max(1, tile_size(coordinates) // (n * max(1, samples)))
    for basis in range(max(1, first // n), -(-last // n), step):
        some = signs[basis - 1 : basis - 1 + step].to(coordinates.dtype)
        some = some[: -(-last // n) - basis]
        scores = transform(coordinates * some.unsqueeze(-1), -2).flatten(0, 1)
        start, stop = max(first, basis * n), min(last, basis * n + len(scores))
        before = start - basis * n
        yield Tile(start, scores[before : stop - basis * n], transform, some, before, len(scores))


def tile_size(like: Tensor) -> int:
    """Number of scores to compute at a time on a device."""
    return _CPU_TILE if like.device.type == "cpu" else _GPU_TILE
