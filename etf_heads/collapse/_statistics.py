"""Counts, means and within-class scatter of labelled features, merged exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 128  # columns: fewer would spare more of the product and slow down what is left


@dataclass(frozen=True)
class ClassStatistics:
    r"""Sufficient statistics of a data set for the collapse measures, independent of its size.

    A *group* is a class, or a tuple of classes when there are several tasks. Statistics of parts
    of a data set merge into those of the whole by the formula of Chan, Golub and LeVeque
    ("Updating formulae and a pairwise algorithm for computing sample variances", 1979), in the
    form for any number of parts: with counts n_r, means μ_r and scatters S_r of parts r,

    .. math:: n = \sum_r n_r, \quad \mu = \sum_r \frac{n_r}{n} \mu_r, \quad
              S = \sum_r S_r + \sum_r n_r (\mu_r - \mu)(\mu_r - \mu)^\top

    No large numbers are subtracted from each other, as they are in E[xxᵀ] - E[x]E[x]ᵀ: fully
    collapsed features keep a scatter of zero to the square of the rounding error.

    Attributes:
        keys: (G,) int64, one number for each group seen, ascending.
        counts: (G,) int64, samples of each group.
        means: (G, d) float64, mean feature of each group.
        traces: (G,) float64, sum over a group's samples of the squared distance to its mean.
        scatter: (d, d) float64, sum over all samples of (h - μ_g)(h - μ_g)ᵀ; None when only
            traces are kept.
        origin: (d,) float64, what group means are compared with; their plain average when None.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [2.0, 1.0], [5.0, 5.0]])
        >>> statistics = ClassStatistics.from_batch(features, torch.tensor([4, 4, 7]))
        >>> statistics.keys.tolist(), statistics.means.tolist()
        ([4, 7], [[1.0, 1.0], [5.0, 5.0]])
        >>> statistics.within, statistics.traces.tolist()
        (0.666..., [2.0, 0.0])
    """

    keys: Tensor
    counts: Tensor
    means: Tensor
    traces: Tensor
    scatter: Tensor | None = None
    origin: Tensor | None = None

    @classmethod
    def from_batch(
        cls, features: Tensor, keys: Tensor, *, covariance: bool = True
    ) -> ClassStatistics:
        """Statistics of one batch in O(B d), and O(B d²) with the scatter.

        Args:
            features: (B, d), any real dtype; accumulated in float64.
            keys: (B,) int64, the group of each sample.
            covariance: whether to keep the scatter.
        """
        features = features.detach().to(torch.float64)
        unique, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
        means = sum_by_group(features, inverse, len(unique)) / counts[:, None]
        residuals = means[inverse].neg_().add_(features)  # in place: fresh memory costs more
        squares = torch.linalg.vecdot(residuals, residuals)
        traces = sum_by_group(squares, inverse, len(unique))
        if not covariance:
            return cls(unique, counts, means, traces)
        # A sample alone in its group is its mean: with many classes that spares most rows.
        alone = counts == 1
        rows = residuals[~alone[inverse]] if alone.any() else residuals
        return cls(unique, counts, means, traces, gram(rows))

    @classmethod
    def merge(cls, parts: Sequence[ClassStatistics]) -> ClassStatistics:
        """Statistics of the union of disjoint data sets; a group may occur in any of them."""
        scatters = [part.scatter for part in parts if part.scatter is not None]
        return cls(
            torch.cat([part.keys for part in parts]),
            torch.cat([part.counts for part in parts]),
            torch.cat([part.means for part in parts]),
            torch.cat([part.traces for part in parts]),
            torch.stack(scatters).sum(0) if scatters else None,
        ).unified()

    def unified(self) -> ClassStatistics:
        """The same data with one row a group, where several rows have the same key."""
        unique, inverse = torch.unique(self.keys, return_inverse=True)
        groups = len(unique)
        if groups == len(self.keys):
            rows = self.keys.argsort()
            return ClassStatistics(
                unique, self.counts[rows], self.means[rows], self.traces[rows], self.scatter
            )
        counts = sum_by_group(self.counts, inverse, groups)
        sizes = self.counts.to(torch.float64)  # integers divide into the default dtype
        share = sizes / counts[inverse]
        means = sum_by_group(self.means * share[:, None], inverse, groups)
        shifts = (self.means - means[inverse]) * sizes.sqrt()[:, None]
        traces = sum_by_group(self.traces + shifts.square().sum(1), inverse, groups)
        scatter = self.scatter
        if scatter is not None:
            scatter = scatter + gram(shifts)
        return ClassStatistics(unique, counts, means, traces, scatter)

    def of_rows(self, kept: Tensor) -> ClassStatistics:
        """Statistics of the groups in ``kept``, a (G,) mask, without scatter."""
        return ClassStatistics(
            self.keys[kept], self.counts[kept], self.means[kept], self.traces[kept]
        )

    def regrouped(self, keys: Tensor) -> ClassStatistics:
        """Statistics after each group g is renamed to ``keys[g]``: groups of equal name merge.

        The classes of one task come from label tuples in this way.
        """
        return ClassStatistics(keys, self.counts, self.means, self.traces, self.scatter).unified()

    @property
    def samples(self) -> int:
        """Number of samples, N."""
        return int(self.counts.sum())

    @property
    def within(self) -> float:
        r"""Trace of Σ_W: mean squared distance of the samples to their group's mean."""
        return significant(float(self.traces.sum()) / self.samples, self.means)

    @property
    def sample_mean(self) -> Tensor:
        """(d,) mean feature, in which every sample counts the same."""
        return (self.counts.to(self.means.dtype) / self.samples) @ self.means

    @property
    def centred_means(self) -> Tensor:
        """(G, d) group means less their plain average, in which every group counts the same.

        Or less :attr:`origin`, if there is one.
        """
        return self.means - (self.means.mean(0) if self.origin is None else self.origin)

    @property
    def between(self) -> float:
        r"""Trace of Σ_B: mean squared length of the centred group means."""
        return significant(float(self.centred_means.square().sum()) / len(self.keys), self.means)

    @property
    def within_over_between(self) -> float:
        r"""Quotient tr Σ_W / tr Σ_B: infinite when the means coincide, nan when all samples do."""
        if self.between > 0:
            return self.within / self.between
        return math.inf if self.within > 0 else math.nan

    def variability(self) -> float:
        r"""tr(Σ_W Σ_B⁺)/G with Σ_W = scatter/N and Σ_B = MᵀM/G, M the centred group means.

        The pseudo-inverse leaves out eigenvalues of Σ_B at most max(G, d) ε times the largest.
        Infinite when the group means coincide, and nan when all samples do.

        Raises:
            ValueError: if no scatter was kept.
        """
        if self.scatter is None:
            raise ValueError("tr(Σ_W Σ_B⁺) needs the scatter: keep it with covariance='full'")
        centred = self.centred_means
        groups, dim = centred.shape
        if self.between == 0:
            return math.inf if self.within > 0 else math.nan
        if self.within == 0:
            return 0.0
        # The eigenvectors of Σ_B, from whichever of its two Gram matrices is smaller.
        if groups < dim:
            values, left = torch.linalg.eigh(centred @ centred.T / groups)
            vectors = centred.T @ left / (values.clamp_min(0) * groups).sqrt()
        else:
            values, vectors = torch.linalg.eigh(centred.T @ centred / groups)
        kept = values > values[-1] * max(groups, dim) * torch.finfo(torch.float64).eps
        vectors, values = vectors[:, kept], values[kept]
        along = (vectors * (self.scatter @ vectors)).sum(0) / self.samples
        return float((along / values).sum()) / groups


def significant(variance: float, means: Tensor) -> float:
    """The variance, or 0 where it is no more than the rounding error of (G, d) means.

    Without this a quotient of two rounding errors would pass for a measurement.
    """
    size = float(means.square().sum()) / len(means)
    return variance if variance > (64 * torch.finfo(torch.float64).eps) ** 2 * size else 0.0


def gram(rows: Tensor) -> Tensor:
    """RᵀR of (n, d) rows, multiplied on and above the diagonal only: it is symmetric."""
    return mirrored(upper_gram(rows, onto=rows.new_zeros(rows.shape[1], rows.shape[1])))


def upper_gram(rows: Tensor, *, onto: Tensor, sign: int = 1) -> Tensor:
    """A (d, d) matrix plus or minus RᵀR of (n, d) rows, on and above the diagonal, in float64."""
    product = onto.to(torch.float64, copy=True)
    for start in range(0, len(onto), _BLOCK):
        own = slice(start, start + _BLOCK)
        product[own, start:].add_(rows[:, own].T @ rows[:, start:], alpha=sign)
    return product


def mirrored(upper: Tensor) -> Tensor:
    """The matrix itself, its entries below the diagonal made those above it."""
    for start in range(0, len(upper), _BLOCK):
        own, below = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        upper[below, own] = upper[own, below].T
        corner = upper[own, own]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return upper


def sum_by_group(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """(n, ...) values -> (groups, ...) sums of those that share a group."""
    return values.new_zeros(groups, *values.shape[1:]).index_add_(0, group, values)
