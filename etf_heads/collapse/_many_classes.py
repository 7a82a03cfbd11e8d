"""Generalized neural collapse, for more classes than a simplex ETF has room for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, class_count
from etf_heads.collapse import _frames as frames
from etf_heads.collapse._labels import check_features, labelled
from etf_heads.collapse._metric import CollapseMetric, Covariance
from etf_heads.collapse._single import require_two_groups, variability
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._vectors import Weights, class_vectors
from etf_heads.geometry import one_vs_rest_distance


class ManyClassCollapse(CollapseMetric):
    r"""Generalized neural collapse, GNC1 to GNC3, in one pass over the data.

    Jiang et al., "Generalized neural collapse for a large number of classes" (ICML 2024): with
    K > d + 1 classes no simplex ETF exists, and features of unit length end at a *softmax code*,
    which maximises the one-versus-rest margin (:func:`one_versus_rest_margin`). With the mean
    features μ_k of the classes seen and class vectors w_k, neither centred, since lengths on the
    unit sphere leave no freedom to shift them:

    ======================  =====================================================================
    ``gnc1``                tr(Σ_W Σ_B⁺)/K; only with ``covariance="full"``
    ``gnc1_ratio``          tr Σ_W / tr Σ_B
    ``gnc2_margin_means``   one-versus-rest margin of the μ_k at unit length
    ``gnc2_margin_weights`` the same of the w_k
    ``gnc2_means``          1 - that margin over the margin of a reference frame
    ``gnc2_weights``        the same of the w_k
    ``gnc3``                mean over k of 1 - cos(w_k, μ_k)
    ======================  =====================================================================

    In GNC1 the mean of the class means is compared with, not that of the samples. GNC1 and GNC3
    are 0 under full collapse; the margins grow, and ``gnc2_*`` fall to 0 as they reach the
    margin of the reference, the best code known.

    Args:
        num_features: d.
        num_classes: K, at least 2.
        covariance: "full" keeps a (d, d) scatter, which ``gnc1`` needs.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> angles = torch.arange(8) * torch.pi / 4
        >>> circle = torch.stack([angles.cos(), angles.sin()], dim=1)  # best for d = 2
        >>> measure = ManyClassCollapse(num_features=2, num_classes=8)
        >>> measure.update(circle, torch.arange(8))
        >>> values = measure.compute(circle, reference=circle)
        >>> {name: round(abs(value), 4) for name, value in values.items()}
        {'gnc1': 0.0, 'gnc1_ratio': 0.0, 'gnc2_margin_means': 0.2929,
         'gnc2_margin_weights': 0.2929, 'gnc3': 0.0, 'gnc2_means': 0.0, 'gnc2_weights': 0.0}
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        covariance: Covariance = "full",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, covariance=covariance, **kwargs)
        self.num_classes = class_count(num_classes, "num_classes")
        self._tasks = Tasks((self.num_classes,))

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Take in a batch of (B, d) features and (B,) integer labels, -100 for none."""
        check_features(features, self.num_features)
        self._add_batch(*labelled(features, labels, self._tasks))

    def compute(
        self, weight: Weights | None = None, *, reference: Tensor | None = None
    ) -> dict[str, float]:
        """The measures by name.

        Args:
            weight: (K, d) class vectors, or a module that has them as ``weight``; None leaves
                out the measures that need them.
            reference: (K, any number of dimensions) frame of the best margin known.

        Raises:
            ValueError: before there is data of two classes, or for a weight of the wrong shape.
            ImportError: without SciPy.
        """
        vectors = None
        if weight is not None:
            (vectors,) = class_vectors(weight, self._tasks, self.num_features, self.device)
        return many_class_collapse(self._statistics(), vectors, reference=reference)


def many_class_collapse(
    statistics: ClassStatistics, weight: Tensor | None = None, *, reference: Tensor | None = None
) -> dict[str, float]:
    """The measures of :class:`ManyClassCollapse` as a function of statistics.

    Args:
        statistics: keys are class labels.
        weight: (K, d) float64 class vectors, row k for label k.
        reference: (K, any number of dimensions) frame of the best margin known.

    Raises:
        ValueError: if fewer than two classes were seen.
        ImportError: without SciPy.
    """
    require_two_groups(statistics)
    values = variability(statistics, "gnc1")
    margins = {"means": one_versus_rest_margin(statistics.means)}
    if weight is not None:
        margins["weights"] = one_versus_rest_margin(weight)
    values |= {f"gnc2_margin_{name}": margin for name, margin in margins.items()}
    if weight is not None:
        directions = frames.unit_rows(weight[statistics.keys])
        # Half the squared distance is 1 - cos, without its rounding error near 0.
        values["gnc3"] = frames.direction_gap(directions, statistics.means) / 2
    if reference is not None:
        best = one_versus_rest_margin(reference)
        values |= {f"gnc2_{name}": 1 - margin / best for name, margin in margins.items()}
    return values


def one_versus_rest_margin(vectors: Tensor) -> float:
    r"""Smallest distance of a unit vector to the convex hull of the others.

    That of :func:`~etf_heads.geometry.one_vs_rest_distance` for the directions of the vectors.

    Args:
        vectors: (K, d), K at least 2; lengths do not matter.

    Raises:
        ImportError: without SciPy.

    Example:
        >>> round(one_versus_rest_margin(3 * torch.eye(4)), 4)  # sqrt(1 + 1/3)
        1.1547
    """
    return one_vs_rest_distance(frames.unit_rows(vectors.detach().to("cpu", torch.float64)))
