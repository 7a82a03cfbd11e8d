"""Sums of labelled features about a point for each group: what one pass over the data adds to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from etf_heads.collapse._statistics import ClassStatistics, mirrored, sum_by_group, upper_gram


@dataclass(frozen=True)
class RunningSums:
    r"""Counts, totals and scatter of groups about points c_g that stay as samples come.

    The points are means of the first samples of each group, so that z = h - c_g is as small as the
    spread of the group: sums of z and of zzᵀ lose no digits to a common offset, and their products
    may be of single precision. Means and scatter follow at the end, with n_g samples:

    .. math:: \mu_g = c_g + \frac{1}{n_g} \sum z, \quad
              S = \sum z z^\top - \sum_g \frac{1}{n_g} \Bigl(\sum z\Bigr) \Bigl(\sum z\Bigr)^\top

    Rows of equal key, such as those of several processes, may have different points.

    Attributes:
        keys: (G,) int64, one number for each group.
        counts: (G,) int64, samples of each group.
        shifts: (G, d) float64, c_g.
        totals: (G, d) float64, sum of z over a group.
        squares: (G,) float64, sum of \|z\|² over a group.
        scatter: (d, d) float64, sum of zzᵀ over all samples, of which entries on and above the
            diagonal count; None when only squares are kept.
    """

    keys: Tensor
    counts: Tensor
    shifts: Tensor
    totals: Tensor
    squares: Tensor
    scatter: Tensor | None = None

    def added(self, batches: Sequence[Tensor], keys: Tensor) -> tuple[RunningSums, RunningSums]:
        """These sums with the samples of their groups added, and sums of other groups.

        Args:
            batches: (B, d) features each, float32 or float64, which is the products' precision.
            keys: the group of each sample of all batches.
        """
        dtype = torch.promote_types(batches[0].dtype, batches[-1].dtype)
        dtype = dtype if self._fits(dtype) else torch.float64
        unique, group, counts = torch.unique(keys, return_inverse=True, return_counts=True)
        place, known = self._find(unique)
        groups = group.split([len(batch) for batch in batches])
        shifts = self.shifts.new_zeros(len(unique), self.shifts.shape[1])
        shifts[known] = self.shifts[place[known]]
        if not known.all():
            for batch, own in zip(batches, groups, strict=True):
                fresh = ~known[own]
                shifts.index_add_(0, own[fresh], batch[fresh].to(torch.float64))
            shifts[~known] /= counts[~known, None]
        shifts = shifts.to(dtype)
        residuals = shifts[group]  # in place from here: fresh memory costs more
        for batch, own in zip(batches, residuals.split([len(b) for b in batches]), strict=True):
            torch.sub(batch, own, out=own)
        totals = sum_by_group(residuals, group, len(unique)).to(torch.float64)
        squares = torch.linalg.vector_norm(residuals, dim=1).to(torch.float64).square()
        squares = sum_by_group(squares, group, len(unique))
        scatter = self.scatter
        if scatter is not None:
            # A new group's only sample is its point: with many groups that spares most rows.
            alone = ((counts == 1) & ~known)[group]
            rows = residuals[~alone] if alone.any() else residuals
            scatter = upper_gram(rows, onto=scatter)
        own = place[known]
        grown = replace(
            self,
            counts=self.counts.index_add(0, own, counts[known]),
            totals=self.totals.index_add(0, own, totals[known]),
            squares=self.squares.index_add(0, own, squares[known]),
            scatter=scatter,
        )
        others = RunningSums(
            unique[~known], counts[~known], shifts[~known].to(torch.float64), totals[~known],
            squares[~known],
        )  # fmt: skip
        return grown._near_means(dtype), others

    def unified(self) -> RunningSums:
        """The same sums with one row a group, in the order of the keys."""
        unique, group = torch.unique(self.keys, return_inverse=True)
        if len(unique) == len(self.keys):
            rows = self.keys.argsort()
            counts, shifts = self.counts[rows], self.shifts[rows]
            totals, squares = self.totals[rows], self.squares[rows]
            return RunningSums(unique, counts, shifts, totals, squares, self.scatter)
        # The point of the row with most samples, so that little moves; of equals, the first.
        last = len(self.keys) - 1
        order = self.counts * len(self.keys) + (last - torch.arange(last + 1, device=group.device))
        largest = order.new_zeros(len(unique)).scatter_reduce(0, group, order, "amax")
        points = self.shifts[last - largest % len(self.keys)]
        same = self._about(points[group])
        counts = sum_by_group(self.counts, group, len(unique))
        totals = sum_by_group(same.totals, group, len(unique))
        squares = sum_by_group(same.squares, group, len(unique))
        return RunningSums(unique, counts, points, totals, squares, same.scatter)

    @property
    def means(self) -> Tensor:
        """(G, d) float64, mean feature of each row."""
        return self.shifts + self.totals / self.counts[:, None]

    def statistics(self) -> ClassStatistics:
        """Means and scatter about them, one row a group."""
        sizes = self.counts.to(torch.float64).sqrt()[:, None]
        rows = self.totals / sizes
        traces = (self.squares - rows.square().sum(1)).clamp_min(0)
        scatter = self.scatter
        if scatter is not None:
            scatter = mirrored(upper_gram(rows, onto=scatter, sign=-1))
        return ClassStatistics(self.keys, self.counts, self.means, traces, scatter).unified()

    def _find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The row of each key, in rows whose keys ascend, and whether it is there."""
        if not len(self.keys):
            return torch.zeros_like(keys), torch.zeros_like(keys, dtype=torch.bool)
        place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return place, self.keys[place] == keys

    def _fits(self, dtype: torch.dtype) -> bool:
        """Whether the points are numbers of this precision."""
        return dtype == torch.float64 or torch.equal(self.shifts.to(dtype).double(), self.shifts)

    def _near_means(self, dtype: torch.dtype) -> RunningSums:
        """The same sums, about points near the means: features may drift as a network learns."""
        sizes = self.counts.to(torch.float64)
        offsets = torch.linalg.vector_norm(self.totals, dim=1).square() / sizes
        far = offsets > 0.75 * self.squares
        if not far.any():
            return self
        means = self.means.to(dtype).to(torch.float64)
        return self._about(torch.where(far[:, None], means, self.shifts))

    def _about(self, shifts: Tensor) -> RunningSums:
        """The same sums about other points, (G, d)."""
        moves = self.shifts - shifts
        moved = moves.any(1)
        twice = 2 * self.totals + self.counts[:, None] * moves
        scatter = self.scatter
        if scatter is not None and moved.any():
            # Of z + m: Σ(z + m)(z + m)ᵀ = Σzzᵀ + (Σz)mᵀ + m(Σz)ᵀ + n mmᵀ.
            both = torch.cat([moves[moved], twice[moved]])
            scatter = scatter.addmm(both.T, both.roll(len(both) // 2, 0), alpha=0.5)
        return replace(
            self,
            shifts=shifts,
            totals=self.totals + self.counts[:, None] * moves,
            squares=self.squares + (moves * twice).sum(1),
            scatter=scatter,
        )
