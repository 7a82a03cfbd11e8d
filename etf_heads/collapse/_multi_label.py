"""Neural collapse of samples with several labels of one task."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._labels import NOT_A_SET, check_set_shape
from etf_heads._tasks import class_count
from etf_heads.collapse._blocks import blocks
from etf_heads.collapse._frames import at_unit_scale, unit_rows
from etf_heads.collapse._labels import check_features
from etf_heads.collapse._metric import CollapseMetric, Covariance
from etf_heads.collapse._pairs import PairSample
from etf_heads.collapse._single import single_task_collapse, variability
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._vectors import dense_weight

_BITS = 62  # of keys that are the sets themselves


class MultiLabelCollapse(CollapseMetric):
    r"""Neural collapse of samples that have sets of labels, in one pass over the data.

    Li, Li, Wang and Qu, "Neural collapse in multi-label learning with pick-all-label loss" (ICML
    2024): the features of a *set* of labels collapse, those of single labels to a simplex ETF, and
    the mean of a set S of m labels is the tag-wise average, a number :math:`C_m` times the
    average of its labels' single-label means. With the mean μ_S of each set seen, μ_k that of
    the single label k, and μ_G the plain average of these:

    ==================  =========================================================================
    ``nc1``             tr(Σ_W Σ_B⁺)/G over the G label sets; only with ``covariance="full"``
    ``nc1_ratio``       tr Σ_W / tr Σ_B over the label sets
    ``nc2_*``, ``nc3``  of the single-label means, and of the class vectors, as in
                        :class:`SingleTaskCollapse`; so are ``nc3_product`` and ``cdnv``
    ``nc_m/2``, ...     mean over sets S of m labels of the angle between μ_S - μ_G and
                        :math:`\sum_{k \in S} (\mu_k - \mu_G)`, over the mean angle between such
                        vectors of different sets of that size
    ``tag_scale/2``, …  :math:`C_m`: the number that makes averages of single-label means most
                        like the means of sets of m labels, by least squares
    ==================  =========================================================================

    All but ``tag_scale`` are 0 under full collapse; :func:`etf_heads.theory.multi_label_optimum`
    says what ``tag_scale`` is then. Two measures differ from the authors' code, which takes angles
    from the origin, counts the matching pairs among the others, and has the mean of all samples
    for μ_G.

    ``nc_m`` and ``tag_scale`` are of sizes from 2 to one less than the classes seen alone, and of
    sets of these classes; what needs single labels is left out without two of them. Angles are
    compared for all pairs of sets up to 10,000 of a size, and for 1,000 sets with all others above.

    Args:
        num_features: d.
        num_classes: K, at least 2.
        covariance: "full" keeps a (d + K, d + K) scatter, which ``nc1`` needs; "trace" costs
            O(d + K) a sample.
        seed: of the draw of sets to compare.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> from etf_heads.theory import multi_label_optimum
        >>> best = multi_label_optimum(4, {1: 10, 2: 10}, 2e-3, 2e-4)
        >>> sets = torch.cartesian_prod(*[torch.arange(2)] * 4)
        >>> sets = sets[(sets.sum(1) == 1) | (sets.sum(1) == 2)]
        >>> measure = MultiLabelCollapse(num_features=3, num_classes=4)
        >>> measure.update(best.features(sets), sets)
        >>> values = measure.compute(best.class_vectors)
        >>> scale = values.pop("tag_scale/2")
        >>> bool(max(values.values()) < 1e-7), abs(scale - best.tag_scales[2]) < 1e-12
        (True, True)
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        covariance: Covariance = "full",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        # Labels stand beside the features, and means of theirs say which set a group is of.
        classes = class_count(num_classes, "num_classes")
        super().__init__(
            num_features, num_targets=classes, covariance=covariance, seed=seed, **kwargs
        )
        self.num_classes, self.seed = classes, seed

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Take in a batch.

        Args:
            features: (B, d), any floating dtype, finite.
            labels: (B, K), bool or 0 and 1: the set of labels of each sample. Samples without one
                are left out.
        """
        check_features(features, self.num_features)
        check_set_shape(labels, (len(features), self.num_classes))
        sets = labels.to(features.device) != 0
        if (labels.to(features.device) != sets).any():
            raise ValueError(NOT_A_SET)
        labelled = sets.any(1)
        keys = (sets * _codes(self.num_classes).to(sets.device)).sum(1)
        rows = torch.cat([features, sets.to(features.dtype)], dim=1)
        self._add_batch(rows[labelled], keys[labelled])

    def compute(self, weight: Tensor | nn.Module | None = None) -> dict[str, float]:
        """The measures by name.

        Args:
            weight: (K, d) class vectors, or a module that has them as ``weight``; None leaves out
                the measures that need them.

        Raises:
            ValueError: before there is data of two label sets, or for a weight of the wrong shape.
        """
        vectors = None
        if weight is not None:
            vectors = dense_weight(weight, (self.num_classes, self.num_features), self.device)
        both, features = self._statistics(), slice(0, self.num_features)
        scatter = None if both.scatter is None else both.scatter[features, features]
        return multi_label_collapse(
            replace(both, means=both.means[:, features], scatter=scatter),
            both.means[:, self.num_features :] > 0.5,
            vectors,
            seed=self.seed,
        )


def multi_label_collapse(
    statistics: ClassStatistics, sets: Tensor, weight: Tensor | None = None, *, seed: int = 0
) -> dict[str, float]:
    """The measures of :class:`MultiLabelCollapse` as a function of statistics.

    Args:
        statistics: of G groups of samples with the same labels.
        sets: (G, K) bool, the labels of each group.
        weight: (K, d) float64 class vectors.
        seed: of the draw of sets, where there are too many to compare all.

    Raises:
        ValueError: if fewer than two label sets were seen.
    """
    if len(statistics.keys) < 2:
        only = sets[0].nonzero().flatten().tolist()
        raise ValueError(
            f"samples of only one label set were seen (labels {only}): collapse compares at least "
            "two; update with more data first"
        )
    values = variability(statistics, "nc1")
    sizes = sets.sum(1)
    alone = sizes == 1
    if int(alone.sum()) < 2:
        return values
    single = replace(statistics.of_rows(alone), keys=sets[alone].long().argmax(1)).unified()
    values = single_task_collapse(single, weight, seed=seed) | values
    centre = single.means.mean(0)
    directions = single.means.new_zeros(sets.shape[1], single.means.shape[1])
    directions[single.keys] = single.means - centre
    unknown = torch.ones_like(sets[0])
    unknown[single.keys] = False
    usable = ~(sets & unknown).any(1)
    for size in range(2, len(single.keys)):  # the sum over all classes is zero
        rows = usable & (sizes == size)
        if rows.any():
            means = statistics.means[rows] - centre
            averages = sets[rows].to(means.dtype) @ directions / size
            values[f"nc_m/{size}"] = _angle_ratio(means, averages, PairSample(seed=seed))
            values[f"tag_scale/{size}"] = float((means * averages).sum() / averages.square().sum())
    return values


def _angle_ratio(vectors: Tensor, others: Tensor, sample: PairSample) -> float:
    """Mean angle between rows of the same place over that between rows of different places."""
    count = len(vectors)
    if count < 2:
        return math.nan
    vectors, others = unit_rows(at_unit_scale(vectors)), unit_rows(at_unit_scale(others))
    # Unlike an arc cosine, this has all digits of small angles.
    matching = 2 * torch.atan2((vectors - others).norm(dim=1), (vectors + others).norm(dim=1))
    chosen = sample.rows(count)
    chosen = torch.arange(count) if chosen is None else chosen
    total = 0.0
    for part in blocks(len(chosen), count):
        own = chosen[part].to(vectors.device)
        angles = (vectors[own] @ others.T).clamp_(-1, 1).acos_()
        total += float(angles.scatter_(1, own[:, None], 0).sum())
    return float(matching.mean()) / (total / (len(chosen) * (count - 1)))


def _codes(classes: int) -> Tensor:
    """Numbers of classes whose sums tell label sets apart: bits, or for many classes random."""
    if classes <= _BITS:
        return torch.ones(classes, dtype=torch.int64) << torch.arange(classes)
    # Sums wrap around. Of a million sets two have the same sum with probability 3e-8.
    generator = torch.Generator().manual_seed(classes)
    return torch.randint(-(2**62), 2**62, (classes,), generator=generator)
