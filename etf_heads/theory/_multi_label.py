"""Several labels a sample: the optimum under pick-all-labels cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from etf_heads._tasks import class_count, positive_int
from etf_heads.geometry import simplex_etf
from etf_heads.theory._checks import positive
from etf_heads.theory._roots import falling_root


@dataclass(frozen=True, eq=False)
class MultiLabelOptimum:
    """The global minimum of the unconstrained feature model with sets of labels.

    Attributes:
        logit_gaps: a_m by the number m of labels: how far the logits of a sample's labels stand
            above the others.
        class_vectors: one simplex ETF, shape (K, dim).
        objective: the least value of the objective.
    """

    logit_gaps: dict[int, float]
    class_vectors: Tensor
    objective: float
    _feature_scale: float

    @property
    def gram(self) -> Tensor:
        """Gram matrix of the class vectors, shape (K, K)."""
        return self.class_vectors @ self.class_vectors.T

    @property
    def tag_scales(self) -> dict[int, float]:
        """C_m = m a_m / a_1: a set's feature over the mean of its labels' single-label features.

        NaN where no samples have one label only, or the head is zero.
        """
        single = self.logit_gaps.get(1, 0.0)
        return {m: m * a / single if single else math.nan for m, a in self.logit_gaps.items()}

    def features(self, labels: Tensor) -> Tensor:
        """Optimal features of samples with these label sets: (..., K) zeros and ones -> (..., d).

        Raises:
            ValueError: if the last dimension is not K, or a set's size is not in ``logit_gaps``.
        """
        if labels.shape[-1] != len(self.class_vectors):
            raise ValueError(
                f"labels has shape {tuple(labels.shape)}; expected (..., "
                f"{len(self.class_vectors)}), one number a class"
            )
        sizes = labels.sum(-1).long()
        unknown = set(sizes.unique().tolist()) - set(self.logit_gaps)
        if unknown:
            raise ValueError(
                f"labels has sets of {sorted(unknown)} labels; the optimum is that of sets of "
                f"{sorted(self.logit_gaps)}"
            )
        gaps = torch.zeros(len(self.class_vectors) + 1, dtype=torch.float64)
        for size, gap in self.logit_gaps.items():
            gaps[size] = gap
        summed = labels.to(self.class_vectors) @ self.class_vectors
        return self._feature_scale * gaps[sizes][..., None] * summed


def multi_label_optimum(
    num_classes: int,
    samples: Mapping[int, float],
    lambda_w: float,
    lambda_h: float,
    over_labels: Literal["sum", "mean"] = "sum",
    *,
    dim: int | None = None,
) -> MultiLabelOptimum:
    r"""Optimal class vectors and features of samples that have sets of labels.

    Li et al. ("Neural collapse in multi-label learning with pick-all-labels loss", ICML 2024)
    show that class vectors form a simplex ETF and that the feature of a label set is
    proportional to the sum of its labels' class vectors. Every set of m labels has :math:`n_m`
    samples, and the loss of a set S is :math:`\sum_{k \in S} \mathrm{CE}(z, k)`. Then, by our own
    derivation, :math:`z_S = a_m (\mathbf 1_S - m/K)`, where one number κ decides all gaps:

    .. math:: \frac{e^{-a_m}}{m + (K-m) e^{-a_m}} = \kappa a_m, \qquad
              \kappa = \frac{2 \sqrt{\lambda_W \lambda_H}\, N}{K R}, \qquad
              R^2 = \sum_m n_m \binom{K-2}{m-1} a_m^2

    and :math:`W W^\top = \sqrt{\lambda_H / \lambda_W}\, R\, (I - \mathbf{11}^\top / K)`,
    :math:`h_S = a_m / (\sqrt{\lambda_H / \lambda_W} R) \sum_{k \in S} w_k`. The head is zero if and
    only if :math:`2 \sqrt{\lambda_W \lambda_H}\, N \ge \sqrt{\sum_m n_m \binom{K-2}{m-1}}`. With
    ``over_labels="mean"`` the loss of a set is divided by m: κ becomes m κ there, and :math:`n_m`
    becomes :math:`n_m / m^2` in the threshold.

    Args:
        num_classes: K.
        samples: :math:`n_m`, samples of every single set, by the number m of its labels,
            0 < m < K.
        lambda_w: regulariser of the class vectors, mean-loss convention.
        lambda_h: regulariser of the features.
        over_labels: "sum" (the paper's loss), or "mean" (what its authors' code trains).
        dim: dimensions to stand in, at least K - 1; K - 1 when None.

    Raises:
        ValueError: if K < 2, a number of labels or samples is not possible, or a λ is not
            positive.

    Example:
        >>> best = multi_label_optimum(4, {1: 10, 2: 10}, 2e-3, 2e-4)
        >>> {m: round(a, 6) for m, a in best.logit_gaps.items()}
        {1: 5.059642, 2: 4.493008}
        >>> round(best.objective, 9)
        0.950141608
    """
    class_count(num_classes, "num_classes")
    positive(lambda_w=lambda_w, lambda_h=lambda_h)
    if over_labels not in {"sum", "mean"}:
        raise ValueError(f"over_labels must be 'sum' or 'mean', got {over_labels!r}")
    if not samples:
        raise ValueError("samples is empty: give the samples of every label set by its size")
    for m, n in samples.items():
        if positive_int(m, "a key of samples") >= num_classes:
            raise ValueError(
                f"samples has sets of {m} labels of {num_classes} classes: 1 to {num_classes - 1} "
                "are possible"
            )
        positive(**{f"samples[{m}]": n})
    K, both = num_classes, math.sqrt(lambda_w * lambda_h)
    divisors = {m: float(m) if over_labels == "mean" else 1.0 for m in samples}
    total = sum(n * math.comb(K, m) for m, n in samples.items())
    # What a_m² counts in R²: the samples of sets that hold one of two classes, not the other.
    parting = {m: n * math.comb(K - 2, m - 1) for m, n in samples.items()}

    def gaps_at(kappa: float) -> dict[int, float]:
        return {m: _gap(K, m, divisors[m] * kappa) for m in samples}

    def shortfall(kappa: float) -> float:
        """Shortfall of κ R; it falls as κ grows, since κ a_m grows."""
        radius = sum(parting[m] * (kappa * a) ** 2 for m, a in gaps_at(kappa).items())
        return 2 * both * total / K - math.sqrt(radius)

    threshold = math.sqrt(sum(parting[m] / divisors[m] ** 2 for m in samples))
    if 2 * both * total >= threshold:
        gaps = dict.fromkeys(samples, 0.0)
    else:
        gaps = gaps_at(math.exp(falling_root(lambda x: shortfall(math.exp(x)), -700.0)))
    radius = math.sqrt(sum(parting[m] * a**2 for m, a in gaps.items()))
    ratio = math.sqrt(lambda_h / lambda_w)
    frame = simplex_etf(K, dim if dim is not None else K - 1)
    loss = sum(
        n * math.comb(K, m) * m / divisors[m] * math.log(m + (K - m) * math.exp(-gaps[m]))
        for m, n in samples.items()
    )
    return MultiLabelOptimum(
        logit_gaps=gaps,
        class_vectors=frame * math.sqrt(ratio * radius * (1 - 1 / K)),
        objective=loss / total + 2 * both * (K - 1) * radius,
        _feature_scale=1 / (ratio * radius) if radius else 0.0,
    )


def _gap(num_classes: int, size: int, kappa: float) -> float:
    """The root a of e^-a / (m + (K - m) e^-a) = κ a, by which a grows as κ falls."""

    def excess(gap: float) -> float:
        return 1 / (size * math.exp(min(gap, 700.0)) + num_classes - size) - kappa * gap

    return falling_root(excess, 0.0)
