"""Neural collapse of multivariate regression."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._tasks import positive_int
from etf_heads.collapse._labels import check_features
from etf_heads.collapse._metric import CollapseMetric
from etf_heads.collapse._statistics import significant
from etf_heads.collapse._vectors import dense_weight


class RegressionCollapse(CollapseMetric):
    r"""Neural regression collapse, NRC1 to NRC3, in one pass over the data.

    Andriopoulos et al., "The prevalence of neural collapse in neural multivariate regression"
    (NeurIPS 2024). With Σ_H the covariance of the features, Σ that of the n targets and W the
    (n, d) weight:

    ========  ===================================================================================
    ``nrc1``  share of tr Σ_H outside the n leading principal components
    ``nrc2``  share of tr Σ_H outside the row space of W
    ``nrc3``  min over 0 <= γ <= λ_min(Σ) of ‖WWᵀ/‖WWᵀ‖ - (Σ^½ - √γ I)/‖Σ^½ - √γ I‖‖²
    ========  ===================================================================================

    All are 0 under full collapse, and nan when the features (for ``nrc3`` the targets) do not
    vary or W is zero. The paper averages shares over samples; here they are shares of the sum,
    so that samples weigh by their squared distance to the mean and one pass is enough.

    Args:
        num_features: d, at least n.
        num_targets: n.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> W, targets = torch.eye(2, 5), torch.randn(500, 2)
        >>> measure = RegressionCollapse(num_features=5, num_targets=2)
        >>> measure.update(targets @ W, targets)  # features in the row space of W
        >>> {name: round(value, 2) for name, value in measure.compute(W).items()}
        {'nrc1': 0.0, 'nrc2': 0.0, 'nrc3': 0.0}
    """

    def __init__(self, num_features: int, num_targets: int, **kwargs: Any) -> None:
        num_targets = positive_int(num_targets, "num_targets")
        # Features and targets side by side are one group: its scatter has all covariances.
        super().__init__(num_features, num_targets=num_targets, **kwargs)
        if num_targets > num_features:
            raise ValueError(
                f"num_targets={num_targets} exceeds num_features={num_features}: the measures "
                f"compare subspaces of as many dimensions as there are targets"
            )
        self.num_targets = num_targets

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Take in a batch.

        Args:
            features: (B, d), any floating dtype, finite.
            labels: (B, n) targets, any floating dtype, finite; (B,) when n is 1.
        """
        check_features(features, self.num_features)
        if self.num_targets == 1 and isinstance(labels, Tensor) and labels.ndim == 1:
            labels = labels[:, None]
        check_features(labels, self.num_targets, "labels")
        if len(labels) != len(features):
            raise ValueError(f"{len(features)} features but {len(labels)} labels in a batch")
        labels = labels.to(features.device)
        rows = torch.cat([features.to(torch.float64), labels.to(torch.float64)], dim=1)
        self._add_batch(rows, torch.zeros(len(rows), dtype=torch.int64, device=rows.device))

    def compute(self, weight: Tensor | nn.Module | None = None) -> dict[str, float]:
        """The measures by name.

        Args:
            weight: (n, d), or a module that has it as ``weight``; None leaves out the measures
                that need it.

        Raises:
            ValueError: before there is data, or for a weight of the wrong shape.
        """
        statistics = self._statistics()
        if statistics.scatter is None:
            raise AssertionError("kept by the constructor")
        blocks = []
        for columns in (slice(0, self.num_features), slice(self.num_features, None)):
            block = statistics.scatter[columns, columns] / statistics.samples
            varies = significant(float(block.trace()), statistics.means[:, columns]) > 0
            blocks.append(block if varies else torch.zeros_like(block))
        matrix = None
        if weight is not None:
            shape = (self.num_targets, self.num_features)
            matrix = dense_weight(weight, shape, self.device)
        return regression_collapse(blocks[0], blocks[1], matrix)


def regression_collapse(
    feature_covariance: Tensor, target_covariance: Tensor, weight: Tensor | None = None
) -> dict[str, float]:
    """The measures of :class:`RegressionCollapse` as a function of covariances.

    Args:
        feature_covariance: (d, d) float64.
        target_covariance: (n, n) float64.
        weight: (n, d) float64.
    """
    total = float(feature_covariance.trace())
    if total <= 0:
        total = math.nan
    targets = len(target_covariance)
    # Ascending: the tail is summed, not the head subtracted, so that small shares keep digits.
    tail = torch.linalg.eigvalsh(feature_covariance)[: len(feature_covariance) - targets]
    values = {"nrc1": float(tail.clamp_min(0).sum()) / total}
    if weight is None:
        return values
    rows = torch.linalg.svd(weight)
    rank = int((rows.S[0] * max(weight.shape) * torch.finfo(weight.dtype).eps < rows.S).sum())
    outside = rows.Vh[rank:]
    share = float(((outside @ feature_covariance) * outside).sum()) / total
    values["nrc2"] = max(share, 0.0) if rank else math.nan
    values["nrc3"] = _gram_gap(weight @ weight.T, target_covariance)
    return values


def _gram_gap(gram: Tensor, covariance: Tensor) -> float:
    """Min over s in [0, sqrt λ_min] of ‖A - B(s)‖², A = gram and B(s) = Σ^½ - s I at norm one.

    The inner product f(s) = (a - s t) / sqrt(q - 2 s r + s² n), a = <A, Σ^½>, t = tr A,
    q = tr Σ, r = tr Σ^½, has a single stationary point: the minimum is there or at an end.
    """
    eigenvalues, basis = torch.linalg.eigh(covariance)
    roots = eigenvalues.clamp_min(0).sqrt()
    if roots[-1] == 0 or not gram.any():
        return math.nan
    target = gram / gram.norm()
    root = basis * roots @ basis.T
    size = len(root)
    a, t = float((target * root).sum()), float(target.trace())
    q, r = float(roots.square().sum()), float(roots.sum())
    ends = [0.0, float(roots[0])]
    stationary = (t * q - a * r) / (t * r - a * size) if t * r != a * size else 0.0
    candidates = [*ends, min(max(stationary, ends[0]), ends[1])]
    eye = torch.eye(size, dtype=root.dtype, device=root.device)
    gaps = []
    for shift in candidates:
        shifted = root - shift * eye
        norm = shifted.norm()
        # At s = sqrt λ_min of a multiple of the identity nothing is left to compare.
        if norm > 1e-12 * root.norm():
            gaps.append(float((target - shifted / norm).square().sum()))
    return min(gaps)
