"""Collapse of training features against collapse of test features."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, class_count
from etf_heads.collapse._labels import check_features, labelled
from etf_heads.collapse._metric import CollapseMetric
from etf_heads.collapse._single import require_two_groups
from etf_heads.collapse._statistics import ClassStatistics

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

    All are 0 under full collapse of the split. K-means needs test features at hand: a uniform
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

    def compute(self) -> dict[str, float]:
        """The variances by name.

        Raises:
            ValueError: before there is data of two classes of both splits.
            ImportError: without scikit-learn, if test features are kept.
        """
        train, test = (
            self._statistics(source, f" of the {split} split")
            for source, split in enumerate(_SPLITS)
        )
        values = {
            "train_variance": class_variance(train),
            "strong_test_variance": class_variance(test),
        }
        if self.reservoir:
            kept = self._sample(_SPLITS.index("test")).features
            values["weak_test_variance"] = cluster_variance(kept, self.num_classes, seed=self.seed)
        return values


def class_variance(statistics: ClassStatistics) -> float:
    """Mean squared distance to the class mean over that of the class means to their average.

    Raises:
        ValueError: if fewer than two classes were seen.
    """
    require_two_groups(statistics)
    return statistics.within_over_between


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
