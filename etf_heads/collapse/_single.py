"""Neural collapse of one classification task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, class_count, positive_int
from etf_heads.collapse import _frames as frames
from etf_heads.collapse._classification import ClassificationCollapse
from etf_heads.collapse._labels import check_features, labelled
from etf_heads.collapse._metric import Covariance, check_finite
from etf_heads.collapse._pairs import (
    PairSample,
    angle_from_simplex,
    pair_means,
    variance_over_distance,
)
from etf_heads.collapse._statistics import ClassStatistics


class SingleTaskCollapse(ClassificationCollapse):
    r"""Neural collapse of one task, NC1 to NC5, in one pass over the data.

    Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep
    learning training" (PNAS 2020). With the mean feature μ_k of each of the K classes *seen*,
    their plain average μ_G, Σ_W the covariance of samples about their class mean (every sample
    counts the same), Σ_B that of the class means about μ_G (every class counts the same), M the
    rows μ_k - μ_G, W the class vectors less their mean, and a tilde for unit length:

    ===================  ========================================================================
    ``nc1``              tr(Σ_W Σ_B⁺)/K; only with ``covariance="full"``
    ``nc1_ratio``        tr Σ_W / tr Σ_B
    ``cdnv``             mean over k != j of (σ_k² + σ_j²) / (2 ‖μ_k - μ_j‖²), σ_k² the mean squared
                         distance to μ_k (Galanti, György and Hutter 2022)
    ``nc2_norms_means``  std/mean of the lengths of M's rows
    ``nc2_angles_means`` mean over k != j of \|⟨μ̃_k, μ̃_j⟩ + 1/(K-1)\|
    ``nc2_gram_means``   ‖G/‖G‖ - (I - 11ᵀ/K)/√(K-1)‖, G = M Mᵀ (Zhu et al. 2021)
    ``nc2_*_weights``    the same three of W, with all its classes
    ``nc3``              ‖W/‖W‖ - M/‖M‖‖² (Papyan et al.), W of the classes seen
    ``nc3_product``      ‖WMᵀ/‖WMᵀ‖ - (I - 11ᵀ/K)/√(K-1)‖ (Zhu et al.)
    ``nc5``              mean over k of \|cos(μ_k, μ_O)\|, μ_O the mean feature of data from
                         elsewhere, both uncentred (Ammar et al., "NECO", 2024); only after
                         :meth:`update_out_of_distribution`
    ===================  ========================================================================

    All are 0 under full collapse. NC4, the share of samples where the classifier does not decide
    for the nearest class mean, needs the final means and so a second pass: see
    :meth:`decisions`. Or a ``reservoir`` keeps so many samples, and ``compute`` adds ``nc4`` of
    these.

    The code published with these papers differs in three definitions, which matter where classes
    are unbalanced or class vectors not centred, and which ``published=True`` restores in NC1, NC2
    and NC3:

    ===============  ============================  ===========================================
    \               here                          published
    ===============  ============================  ===========================================
    class vectors W  less their mean, since a      as they are
                     softmax does not see it
    μ_G              mean of the class means       mean of the samples
    std/mean         divides by K                  divides by K - 1 in the standard deviation
    ===============  ============================  ===========================================

    A class that has not been seen is left out of everything but ``nc2_*_weights``. When all
    class means coincide the quotients are infinite; a measure of zero vectors is nan. ``update``
    costs the same for any K. ``compute`` compares all pairs of classes for ``cdnv`` and
    ``nc2_angles_*``, O(K² d) time in blocks of bounded memory, up to K = 10,000. With more classes
    it compares 1,000 of them, drawn uniformly, with all others; ``cdnv_stderr`` and
    ``nc2_angles_*_stderr`` then stand beside the values, their standard errors. Everything else is
    O(K d²) and exact.

    Args:
        num_features: d.
        num_classes: K, at least 2.
        covariance: "full" keeps a (d, d) scatter, which ``nc1`` needs; "trace" costs O(d) a
            sample instead of O(d²).
        reservoir: number of samples, drawn uniformly, to keep for ``nc4``; none by default.
        published: whether to use the definitions of the published code instead, see above.
        compared_classes: number of classes that are compared with all others in ``cdnv`` and
            ``nc2_angles_*``; at least K for all of them, None for the rule above.
        seed: of the draws.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> from etf_heads.geometry import simplex_etf
        >>> etf, labels = simplex_etf(3), torch.arange(3).repeat(5)
        >>> measure = SingleTaskCollapse(num_features=3, num_classes=3)
        >>> measure.update(4 * etf[labels] + 1, labels)  # collapsed features
        >>> values = measure.compute(etf)
        >>> max(values.values()) < 1e-12
        True
    """

    disagreement_name = "nc4"
    elsewhere_sum: Tensor

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        covariance: Covariance = "full",
        reservoir: int = 0,
        published: bool = False,
        compared_classes: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_features, covariance=covariance, reservoir=reservoir, seed=seed, **kwargs
        )
        self.num_classes = class_count(num_classes, "num_classes")
        self.tasks = Tasks((self.num_classes,))
        self.published = published
        if compared_classes is not None:
            positive_int(compared_classes, "compared_classes")
        self.compared_classes, self.seed = compared_classes, seed
        zero = torch.zeros(num_features, dtype=torch.float64)
        self.add_state("elsewhere_sum", default=zero, dist_reduce_fx="sum")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Take in a batch.

        Args:
            features: (B, d), any floating dtype, finite.
            labels: (B,) integers from 0 to K - 1; samples with the label -100 have none and are
                left out.
        """
        check_features(features, self.num_features)
        features, labels = labelled(features, labels, self.tasks)
        self._add_batch(features, labels)
        self._draw_samples(features, labels)

    def update_out_of_distribution(self, features: Tensor) -> None:
        """Take in (B, d) features of data that belongs to none of the classes, for ``nc5``."""
        features = check_features(features, self.num_features).detach().to(self.device)
        check_finite(features)
        # Only the direction of their mean is needed: the sum has it.
        self.elsewhere_sum = self.elsewhere_sum + features.to(torch.float64).sum(0)

    def _values(self, vectors: Sequence[Tensor] | None) -> dict[str, float]:
        elsewhere = self.elsewhere_sum if self.elsewhere_sum.any() else None
        weight = None if vectors is None else vectors[0]
        return single_task_collapse(
            self._statistics(),
            weight,
            out_of_distribution=elsewhere,
            published=self.published,
            compared_classes=self.compared_classes,
            seed=self.seed,
        )

    def _centres(self) -> Sequence[ClassStatistics]:
        return [self._statistics()]

    def _kept(self) -> tuple[Tensor, Tensor]:
        sample = self._sample()
        return sample.features, sample.labels


def single_task_collapse(
    statistics: ClassStatistics,
    weight: Tensor | None = None,
    *,
    out_of_distribution: Tensor | None = None,
    published: bool = False,
    compared_classes: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """The measures of :class:`SingleTaskCollapse` as a function of statistics.

    Args:
        statistics: keys are class labels.
        weight: (K, d) float64 class vectors, row k for label k.
        out_of_distribution: (d,) mean feature, at any scale, of data from elsewhere.
        published: whether to use the definitions of the published code.
        compared_classes: number of classes that are compared with all others; None: all up to
            10,000, and 1,000 above.
        seed: of the draw of these.

    Raises:
        ValueError: if fewer than two classes were seen.
    """
    require_two_groups(statistics)
    if published:
        statistics = replace(statistics, origin=statistics.sample_mean)
    means = statistics.centred_means
    values = variability(statistics, "nc1")
    sample = PairSample(compared_classes, seed)
    values |= _equiangular_tightness(means, "means", published, sample, statistics)
    if weight is not None:
        every, seen = weight, weight[statistics.keys]
        if not published:
            every, seen = frames.centred(every), frames.centred(seen)
        values |= _equiangular_tightness(every, "weights", published, sample)
        values["nc3"] = frames.duality_gap(seen, means)
        values["nc3_product"] = frames.product_deviation(seen, means)
    if out_of_distribution is not None:
        direction = frames.unit_rows(out_of_distribution[None])[0]
        values["nc5"] = float((frames.unit_rows(statistics.means) @ direction).abs().mean())
    return values


def require_two_groups(statistics: ClassStatistics, where: str = "") -> None:
    """ValueError unless there is variability between groups to speak of."""
    if len(statistics.keys) < 2:
        raise ValueError(
            f"samples of only one class{where} were seen (label {int(statistics.keys[0])}): "
            f"collapse compares at least two; update with more data first"
        )


def variability(statistics: ClassStatistics, name: str) -> dict[str, float]:
    """NC1 as a pseudo-inverse, if there is a scatter, and as a ratio of traces."""
    values = {} if statistics.scatter is None else {name: statistics.variability()}
    return values | {f"{name}_ratio": statistics.within_over_between}


def class_distance_normalised_variance(statistics: ClassStatistics) -> float:
    r"""CDNV, mean over pairs of groups of (σ_k² + σ_j²) / (2 ‖μ_k - μ_j‖²).

    Galanti, György and Hutter, "On the role of neural collapse in transfer learning" (ICLR 2022).
    """
    means = frames.centred(statistics.means)
    function = variance_over_distance(means, statistics.traces / statistics.counts)
    return pair_means(means, {"cdnv": function}, PairSample(len(means)))["cdnv"]


def _equiangular_tightness(
    vectors: Tensor,
    of: str,
    published: bool,
    sample: PairSample,
    statistics: ClassStatistics | None = None,
) -> dict[str, float]:
    """NC2 of vectors; of class means also the CDNV, from the same products of pairs."""
    largest = vectors.abs().amax()
    scaled = frames.at_unit_scale(vectors)
    functions = {f"nc2_angles_{of}": angle_from_simplex(scaled)}
    if statistics is not None:
        variances = statistics.traces / statistics.counts / largest / largest
        functions["cdnv"] = variance_over_distance(scaled, variances)
    return pair_means(scaled, functions, sample) | {
        f"nc2_norms_{of}": frames.norm_variation(vectors, correction=int(published)),
        f"nc2_gram_{of}": frames.gram_deviation(vectors),
    }
