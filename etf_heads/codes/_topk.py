"""The best scores among the vectors of many bases, exactly, without keeping scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads import kernels
from etf_heads._precision import at_least_float32
from etf_heads.codes._tiles import tile_size, tiles
from etf_heads.geometry import WalshHadamard

_SHIFTS = 16  # a power of two; all but one cost a transform
_LISTED = 4  # bases looked at before a proof is tried


@dataclass(frozen=True)
class Search:
    """The best classes of one task.

    Attributes:
        signs: (bases - 1, n) of :class:`~etf_heads.codes.BasesCode`.
        first: the first line of the task.
        classes: K_t.
        chosen: (lines, 2) which ends of its lines are classes; all when None.
        quadratic: whether the signs are of quadratic forms over GF(2), zero at 0.
    """

    signs: Tensor
    first: int
    classes: int
    chosen: Tensor | None = None
    quadratic: bool = False

    @property
    def lines(self) -> slice:
        """The lines of the task."""
        return slice(self.first, self.first + -(-self.classes // 2))

    @torch.no_grad()
    def topk(self, coordinates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Values and ends of lines, counted from the first of the task, best first.

        Args:
            coordinates: (samples, n).
            k: up to the number of classes.

        Returns:
            (samples, k) each, the values of float32 at least.
        """
        coordinates = coordinates.to(at_least_float32(coordinates.dtype))
        step = max(1, tile_size(coordinates) // coordinates.shape[1])
        with torch.autocast(coordinates.device.type, enabled=False):
            parts = [self._block(block, k) for block in coordinates.split(step)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _block(self, coordinates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        listed = self.quadratic and k == 1 and len(self.signs) >= 8 * _SHIFTS
        if not listed or self.first >= coordinates.shape[1]:
            return self._exact(coordinates, k)
        values, ends, proved = self._listed(coordinates)
        if not proved.all():
            some = ~proved
            values[some], ends[some] = self._exact(coordinates[some], k)
        return values, ends

    def _exact(self, coordinates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Two passes: the best of each basis, then all of the k bases with the best ones.

        The k-th best of the bases' best is no better than the k-th best of all, so no other basis
        has anything better.
        """
        best = self._best_of_bases(coordinates)
        bases = best.topk(min(k, best.shape[1]), dim=1).indices + self._first_basis(coordinates)
        return self._of_bases(coordinates, bases, k)

    def _first_basis(self, coordinates: Tensor) -> int:
        return self.first // coordinates.shape[-1]

    def _best_of_bases(self, coordinates: Tensor) -> Tensor:
        """(samples, bases of the task)."""
        if kernels.takes_bases(coordinates):
            lines = (self.first, self.classes, self.chosen)
            return kernels.best_of_bases(coordinates, self.signs, *lines)
        n = coordinates.shape[1]
        found = []
        for tile in tiles(coordinates.mT.contiguous(), self.signs, self.lines):
            best = torch.maximum(*self._ends(tile.scores, tile.lines))
            before = tile.start % n
            after = -(tile.start + len(best)) % n
            if before or after:
                best = F.pad(best, (0, 0, before, after), value=-math.inf)
            found.append(best.unflatten(0, (-1, n)).amax(1))
        return torch.cat(found).mT

    def _ends(self, scores: Tensor, lines: slice) -> tuple[Tensor, Tensor]:
        """Scores (lines, ...) of both ends, minus infinity of ends that are no class."""
        up, down = scores, -scores
        if self.classes % 2 and lines.stop == self.lines.stop:
            down[-1] = -math.inf
        if self.chosen is not None:
            ends = self.chosen[lines.start - self.first : lines.stop - self.first].unsqueeze(-1)
            up, down = up.where(ends[:, 0], -math.inf), down.where(ends[:, 1], -math.inf)
        return up, down

    def _of_bases(self, coordinates: Tensor, bases: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The best of each sample's own bases (samples, any number)."""
        samples, n = coordinates.shape
        values = coordinates.new_full((samples, k), -math.inf)
        ends = torch.zeros(samples, k, dtype=torch.int64, device=coordinates.device)
        transform = (
            WalshHadamard(n, coordinates.dtype, coordinates.device) if len(self.signs) else None
        )
        places = torch.arange(n, device=coordinates.device)
        for basis in bases.unbind(1):
            scores = coordinates
            if transform is not None:
                signs = self.signs[(basis - 1).clamp(min=0)]
                scores = transform(coordinates * signs)
                scores = torch.where((basis == 0).unsqueeze(1), coordinates, scores)
            line = basis.unsqueeze(1) * n + places - self.first
            up, down = self._ends_of(scores, line)
            both = torch.cat([values, up, down], dim=1)
            which = torch.cat([ends, 2 * line, 2 * line + 1], dim=1)
            values, index = both.topk(k, dim=1)
            ends = which.gather(1, index)
        return values, ends

    def _ends_of(self, scores: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
        """The same as _ends, for lines (samples, n) that may be of other tasks."""
        inside = (line >= 0) & (2 * line < self.classes)
        other = (line >= 0) & (2 * line + 1 < self.classes)
        if self.chosen is not None:
            ends = self.chosen[line.clamp(0, len(self.chosen) - 1)]
            inside, other = inside & ends[..., 0], other & ends[..., 1]
        return scores.where(inside, -math.inf), (-scores).where(other, -math.inf)

    def _listed(self, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best of a few bases, and whether there is a proof that no other has a better one."""
        n = coordinates.shape[1]
        last = -(-self.lines.stop // n)
        limits = basis_limits(coordinates, self.signs[: last - 1])
        count = min(_LISTED, limits.shape[1])
        largest, listed = limits.topk(min(count + 1, limits.shape[1]), dim=1)
        identity = torch.zeros_like(listed[:, :1])
        bases = torch.cat([identity, listed[:, :count] + 1], dim=1)
        values, ends = self._of_bases(coordinates, bases, 1)
        if largest.shape[1] == count:
            return values, ends, torch.ones_like(values[:, 0], dtype=torch.bool)
        return values, ends, values[:, 0] >= largest[:, count]


def basis_limits(coordinates: Tensor, signs: Tensor) -> Tensor:
    r"""Upper bounds of all |scores| in each basis of a quadratic form, from a few transforms.

    For a sign vector :math:`q = (-1)^Q` of a quadratic form, :math:`h \cdot h` shifted by a is, up
    to the signs of a linear function, the autocorrelation of :math:`q h`, and that is the
    Walsh-Hadamard transform of the squared scores x: for *every* basis,

    .. math:: r_q(a) = \sum_c q_c h_c\, q_{c+a} h_{c+a} = \sum_j x_j^2 (-1)^{j \cdot a}
                     = q_a \sum_c h_c h_{c+a} (-1)^{B_q(a, c)}

    is one entry of the transform of :math:`h_c h_{c+a}`, at the index of the linear function
    :math:`B_q(a, \cdot)`. From all a of a subgroup of 16, a transform of 16 entries gives the
    energy of each of 16 groups of coordinates, in which no single :math:`x_j^2` can be larger.
    All bases together cost 15 transforms, in place of one each.

    Args:
        coordinates: (samples, n).
        signs: (bases, n), of quadratic forms with Q(0) = 0.

    Returns:
        (samples, bases), with room for rounding.
    """
    samples, n = coordinates.shape
    total = coordinates.square().sum(1, keepdim=True)
    places = torch.arange(n, device=coordinates.device)
    index, sign = _linear_functions(signs, torch.arange(_SHIFTS, device=coordinates.device))
    sign = sign.to(coordinates.dtype) * math.sqrt(n)  # an int8 times a number would be float32
    transform = WalshHadamard(n, coordinates.dtype, coordinates.device)
    correlations = coordinates.new_empty(samples, _SHIFTS, len(signs))
    correlations[:, 0] = total
    for a in range(1, _SHIFTS):
        spectrum = transform(coordinates * coordinates.index_select(1, places ^ a))
        torch.mul(spectrum.index_select(1, index[a]), sign[a], out=correlations[:, a])
    groups = WalshHadamard(_SHIFTS, coordinates.dtype, coordinates.device)
    energies = groups(correlations, -2).amax(1) / math.sqrt(_SHIFTS)
    slack = 16 * torch.finfo(coordinates.dtype).eps * math.sqrt(n)
    return (energies.clamp(min=0) + slack * total).sqrt()


def _linear_functions(signs: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """For each shift a and basis: the index of c -> B(a, c), and q_a; (shifts, bases) each."""
    n = signs.shape[1]
    units = 2 ** torch.arange(n.bit_length() - 1, device=signs.device)
    at_shift = signs[:, shifts]  # (bases, shifts)
    polar = signs[:, units].unsqueeze(1) * signs[:, shifts.unsqueeze(1) ^ units]
    polar = polar * at_shift.unsqueeze(-1)  # (-1)^B(a, unit)
    index = ((polar < 0) * units).sum(-1)
    return index.mT, at_shift.mT
