"""Collapse of training features against collapse of test features."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, class_count
from etf_heads.collapse._labels import check_features, labelled
from etf_heads.collapse._metric import CollapseMetric
from etf_heads.collapse._single import require_two_groups
from etf_heads.collapse._statistics import ClassStatistics, significant

_SPLITS = ("train", "test")


class VarianceCollapse(CollapseMetric):
    r"""Train, strong-test and weak-test variance of Hui, Belkin and Nakkiran.

    "Limitations of neural collapse for understanding generalization in deep learning" (2022):
    does the collapse of training features extend to test features? For centres c_1..c_K, a
    variance is the mean squared distance of the features to their centre over the mean squared
    distance of the centres to their plain average:

    ========================  ===================================================================
    ``train_variance``        training features, centres are their class means
    ``strong_test_variance``  test features, centres are their own class means
    ``weak_test_variance``    test features, centres are those that k-means finds for K clusters,
                              whichever is nearest
    ========================  ===================================================================

    All are 0 under full collapse of the split. Features of an early network can be measured about
    the centres of another time, such as those that the trained network ends in: see
    :meth:`compute`. K-means needs test features at hand: a uniform
    sample of bounded size is kept, all of them if there are no more.

    Args:
        num_features: d.
        num_classes: K, at least 2.
        test_samples: most test features to keep for k-means, d float64 numbers each; 0 leaves out
            ``weak_test_variance``, which then needs no scikit-learn.
        seed: of the sample and of k-means.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> labels = torch.arange(3).repeat(20)
        >>> features = 5 * torch.eye(3)[labels]
        >>> measure = VarianceCollapse(num_features=3, num_classes=3, test_samples=0)
        >>> measure.update(features, labels, "train")
        >>> measure.update(features + torch.tensor([[1.0], [-1.0]]).repeat(30, 1), labels, "test")
        >>> {name: round(value, 6) for name, value in measure.compute().items()}
        {'train_variance': 0.0, 'strong_test_variance': 0.18}
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        test_samples: int = 20_000,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_features,
            covariance="trace",
            sources=len(_SPLITS),
            reservoir=test_samples,
            seed=seed,
            **kwargs,
        )
        self.num_classes = class_count(num_classes, "num_classes")
        self.seed = seed

    def update(self, features: Tensor, labels: Tensor, split: Literal["train", "test"]) -> None:
        """Take in a batch of (B, d) features and (B,) labels of the training or the test data.

        Samples with the label -100 have none and are left out.
        """
        if split not in _SPLITS:
            raise ValueError(f"split={split!r} is unknown: choose from 'train', 'test'")
        check_features(features, self.num_features)
        features, labels = labelled(features, labels, Tasks((self.num_classes,)))
        self._add_batch(features, labels, _SPLITS.index(split))
        if split == "test":
            self._draw_samples(features, labels, _SPLITS.index(split))

    def compute(self, centres: VarianceCollapse | None = None) -> dict[str, float]:
        """The variances by name.

        Args:
            centres: a measure of the same classes at another time, whose class means are the
                centres of each split; there is no ``weak_test_variance`` then.

        Raises:
            ValueError: before there is data of two classes of both splits, or if there are no
                centres of a class.
            ImportError: without scikit-learn, if test features are kept.
        """
        names = ("train_variance", "strong_test_variance")
        values = {}
        for source, (name, split) in enumerate(zip(names, _SPLITS, strict=True)):
            others = None if centres is None else centres.class_statistics(source)
            values[name] = class_variance(
                self._statistics(source, f" of the {split} split"), others
            )
        if self.reservoir and centres is None:
            kept = self._sample(_SPLITS.index("test")).features
            values["weak_test_variance"] = cluster_variance(kept, self.num_classes, seed=self.seed)
        return values


def class_variance(statistics: ClassStatistics, centres: ClassStatistics | None = None) -> float:
    r"""Mean squared distance to the class mean over that of the class means to their average.

    Args:
        statistics: of the features.
        centres: whose class means take the place of the features' own, in both distances: with
            :math:`c_k` these, :math:`\frac1N \sum_i |h_i - c_{y_i}|^2` over
            :math:`\frac1K \sum_k |c_k - \bar c|^2`. Hui et al. follow the features of a network
            that is being trained about the centres that they end in.

    Raises:
        ValueError: if fewer than two classes were seen, or centres are of other features or lack
            a class.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> early = ClassStatistics.from_batch(torch.tensor([[0.0], [2], [2], [4]]), labels)
        >>> final = ClassStatistics.from_batch(torch.tensor([[0.0], [0], [4], [4]]), labels)
        >>> class_variance(early), class_variance(final), class_variance(early, final)
        (1.0, 0.0, 0.5)
    """
    require_two_groups(statistics)
    if centres is None:
        return statistics.within_over_between
    require_two_groups(centres, " among the centres")
    if centres.means.shape[1] != statistics.means.shape[1]:
        raise ValueError(
            f"centres have {centres.means.shape[1]} features, the statistics "
            f"{statistics.means.shape[1]}"
        )
    place = torch.searchsorted(centres.keys, statistics.keys).clamp(max=len(centres.keys) - 1)
    if (missing := statistics.keys[centres.keys[place] != statistics.keys]).numel():
        raise ValueError(f"there are no centres of the classes {missing.tolist()}")
    moved = (statistics.means - centres.means[place]).square().sum(1)
    total = statistics.traces.sum() + statistics.counts.to(moved.dtype) @ moved
    within = significant(float(total) / statistics.samples, centres.means)
    if centres.between > 0:
        return within / centres.between
    return math.inf if within > 0 else math.nan


def cluster_variance(features: Tensor, num_clusters: int, *, seed: int = 0) -> float:
    """The same quotient about the centres that k-means finds, from 10 starts.

    Args:
        features: (N, d), N at least ``num_clusters``.
        num_clusters: K.
        seed: of k-means.

    Raises:
        ValueError: if there are fewer features than clusters.
        ImportError: without scikit-learn.
    """
    if len(features) < num_clusters:
        raise ValueError(
            f"{len(features)} test features are too few for {num_clusters} clusters: keep more "
            f"with test_samples, or update with more data"
        )
    try:
        from sklearn.cluster import KMeans  # noqa: PLC0415 - not a core dependency
    except ImportError as error:
        raise ImportError(
            'weak_test_variance runs scikit-learn\'s k-means: pip install "etf_heads[recipes]", '
            "or leave it out with test_samples=0"
        ) from error
    points = features.detach().to("cpu", torch.float64).numpy()
    found = KMeans(num_clusters, n_init=10, random_state=seed).fit(points)
    assigned = torch.from_numpy(found.labels_).long()
    # Statistics of the clusters: their means are the centres, up to k-means' tolerance.
    return ClassStatistics.from_batch(
        torch.from_numpy(points), assigned, covariance=False
    ).within_over_between
