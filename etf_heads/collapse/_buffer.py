"""Distortion of classes in a rehearsal buffer: their features against those of all their images."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, class_count
from etf_heads.collapse._labels import check_features, labelled
from etf_heads.collapse._metric import CollapseMetric, check_finite
from etf_heads.collapse._statistics import ClassStatistics

_PARTS = ("buffer", "population")


class BufferDistortion(CollapseMetric):
    r"""The statistics of a rehearsal buffer beside those of the classes it stands for.

    Lanzillotta, Meier and Hofmann, "Asymptotic analysis of shallow and deep forgetting in replay
    with neural collapse" (2025, arXiv 2512.07400): a network that replays a few images of its old
    classes collapses on these, so that covariances of the buffer are rank-deficient and its class
    means inflated, and the classifier no longer sees where the boundaries of the population are.
    Classes whose mean feature is orthogonal to the *active subspace* S, the span of the centred
    class means of the training data, are out of distribution. The paper describes all three; the
    numbers that measure them here are ours:

    =========================  ===================================================================
    ``inflation``              ‖μ_buf - G‖ / ‖μ_pop - G‖, mean over the classes of the buffer; G is
                               the plain average of the class means of the population
    ``effective_rank_ratio``   r(Σ_buf) / r(Σ_pop) with :math:`r(\Sigma) = (\operatorname{tr}
                               \Sigma)^2 / \operatorname{tr} \Sigma^2`, mean over the classes whose
                               covariances are not 0; a class with one image in the buffer has none
    ``old_mean_share``         ‖P_S(μ_pop - G)‖² / ‖μ_pop - G‖², mean over the classes that are not
                               ``current``: 0 for classes out of distribution, 1 for means within S
    =========================  ===================================================================

    The first two are 1 for a buffer that is like its population. S is spanned by the class means
    of what was trained last, less their plain average: those of the population for ``current``
    classes, of which every image was trained on, and those of the buffer for the others.

    Covariances are kept class by class: memory is O(K d²) for both parts.

    Args:
        num_features: d.
        num_classes: K, at least 2.
        kwargs: further keyword arguments of :class:`CollapseMetric` but ``covariance``.

    Example:
        >>> features = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> measure = BufferDistortion(num_features=2, num_classes=2)
        >>> measure.update(features, labels, "population")
        >>> measure.update(torch.tensor([[3.0, 0.5], [3.0, -0.5]]), labels[:2], "buffer")
        >>> measure.compute(current=[1])
        {'inflation': 1.5, 'effective_rank_ratio': 1.0, 'old_mean_share': 1.0}
    """

    def __init__(self, num_features: int, num_classes: int, **kwargs: Any) -> None:
        sources = len(_PARTS) * class_count(num_classes, "num_classes")
        super().__init__(num_features, sources=sources, **kwargs)
        self.num_classes = num_classes

    def update(
        self, features: Tensor, labels: Tensor, part: Literal["buffer", "population"]
    ) -> None:
        """Take in a batch of (B, d) features and (B,) labels of the buffer or the population.

        Samples with the label -100 have none and are left out. All features must be of the same
        network, after the session that is measured.

        Raises:
            ValueError: for another part, features of another shape or that are not finite, or
                labels out of range; the batch is not taken in.
        """
        if part not in _PARTS:
            raise ValueError(f"part={part!r} is unknown: choose from 'buffer', 'population'")
        check_features(features, self.num_features)
        features, labels = labelled(features, labels, Tasks((self.num_classes,)))
        features, labels = features.detach().to(self.device), labels.to(self.device)
        check_finite(features)  # of all classes, before one of them is taken in
        for k in labels.unique().tolist():
            own = labels == k
            self._add_batch(features[own], labels[own], self._source(part, k))

    def compute(self, current: Collection[int] | None = None) -> dict[str, float]:
        """The measures by name; nan where no class defines one.

        Args:
            current: classes that were trained last with their whole population; None leaves out
                ``old_mean_share``.

        Raises:
            ValueError: before there is data of two classes of the population, for a class that is
                in the buffer or ``current`` and not in the population, or without an old class.
        """
        population, buffer = self._classes("population"), self._classes("buffer")
        if len(population) < 2:
            raise ValueError(
                f"features of {len(population)} classes of the population were seen: at least two "
                "are compared; update with more data first"
            )
        self._check_known("the buffer", buffer, population)
        origin = torch.cat([own.means for own in population.values()]).mean(0)
        pairs = [(buffer[k], population[k]) for k in buffer]
        values = {
            "inflation": _mean([_inflation(*pair, origin) for pair in pairs]),
            "effective_rank_ratio": _mean([_rank_ratio(*pair) for pair in pairs]),
        }
        if current is None:
            return values
        self._check_known("current", current, population)
        old = [own.means[0] - origin for k, own in population.items() if k not in current]
        if not old or not current:
            raise ValueError(
                f"current={list(current)} of the classes {list(population)}: at least one class "
                "has to be current and one old"
            )
        trained = [own.means for k, own in population.items() if k in current]
        trained += [own.means for k, own in buffer.items() if k not in current]
        basis = _span(torch.cat(trained))
        return values | {"old_mean_share": _mean([_share(mean, basis) for mean in old])}

    def _source(self, part: str, label: int) -> int:
        return _PARTS.index(part) * self.num_classes + label

    def _classes(self, part: str) -> dict[int, ClassStatistics]:
        """Statistics of the classes of which there is data, gathered or not."""
        found = {}
        for k in range(self.num_classes):
            source = self._source(part, k)
            self._take_in(source)
            rows = self._rows(source)
            if len(rows.keys):
                found[k] = rows.statistics()
        return found

    def _check_known(
        self, what: str, classes: Collection[int], population: Mapping[int, object]
    ) -> None:
        if unknown := sorted(set(classes) - set(population)):
            raise ValueError(
                f"{what} has the classes {unknown}, of which the population has no features: "
                f"update with theirs as 'population'; it has {list(population)}"
            )


def _inflation(buffer: ClassStatistics, population: ClassStatistics, origin: Tensor) -> float:
    length = float((population.means[0] - origin).norm())
    return float((buffer.means[0] - origin).norm()) / length if length > 0 else math.nan


def _rank_ratio(buffer: ClassStatistics, population: ClassStatistics) -> float:
    return _effective_rank(buffer) / _effective_rank(population)


def _effective_rank(statistics: ClassStatistics) -> float:
    """(tr Σ)² / tr Σ²; nan for a covariance of 0."""
    if statistics.scatter is None or not statistics.within > 0:
        return math.nan
    return float(statistics.scatter.trace().square() / statistics.scatter.square().sum())


def _span(means: Tensor) -> Tensor:
    """Orthonormal rows that span (n, d) means less their plain average, up to rounding."""
    _, sizes, basis = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    floor = torch.finfo(sizes.dtype).eps * max(means.shape) * float(means.norm())
    return basis[sizes > floor]


def _share(mean: Tensor, basis: Tensor) -> float:
    """Share of the square of a vector that lies in a subspace."""
    whole = float(mean.square().sum())
    return float((basis @ mean).square().sum()) / whole if whole > 0 else math.nan


def _mean(values: list[float]) -> float:
    """Mean of those that are defined."""
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan
