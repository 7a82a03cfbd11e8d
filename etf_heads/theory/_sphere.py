"""Unit class vectors and unit features: what their cosines, times a scale, can reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etf_heads._tasks import class_count
from etf_heads.theory._checks import positive


@dataclass(frozen=True)
class SphereOptimum:
    """Classes on the unit sphere at the least cross-entropy.

    Attributes:
        logit_gap: the right logit less the others.
        probability: of the right class.
        loss: cross-entropy, the floor of any training on the sphere.
    """

    logit_gap: float
    probability: float
    loss: float


def sphere_optimum(num_classes: int, scale: float) -> SphereOptimum:
    r"""The least cross-entropy of unit features and unit class vectors at this scale.

    Yaras et al. ("Neural collapse with normalized features", NeurIPS 2022): with logits s times
    cosines and K <= d + 1, the global minimum is a simplex ETF with features on their class
    vectors, for every scale,

    .. math:: a = \frac{s K}{K - 1}, \qquad
              \mathrm{CE} = \log\left(1 + (K-1)\, e^{-s K / (K-1)}\right)

    So a scale that is too small leaves a loss that no training removes; see :func:`unit_scale`.

    Args:
        num_classes: K.
        scale: s, one over the temperature.

    Raises:
        ValueError: if K < 2 or the scale is not positive.

    Example:
        >>> round(sphere_optimum(10, scale=1.0).probability, 3)
        0.252
        >>> round(sphere_optimum(10, unit_scale(10, 0.99)).probability, 3)
        0.99
    """
    class_count(num_classes, "num_classes")
    positive(scale=scale)
    gap = scale * num_classes / (num_classes - 1)
    odds = (num_classes - 1) * math.exp(-gap)
    return SphereOptimum(logit_gap=gap, probability=1 / (1 + odds), loss=math.log1p(odds))


def unit_scale(num_classes: int, probability: float = 0.99) -> float:
    r"""The scale at which unit features can reach this probability of their class.

    .. math:: s = \frac{K-1}{K} \log \frac{(K-1)\, p}{1 - p}

    Args:
        num_classes: K.
        probability: p, above 1/K and below 1.

    Returns:
        s, in the units of ``scale`` of heads with ``feature_norm="unit"``.

    Raises:
        ValueError: if K < 2 or p is not possible.

    Example:
        >>> [round(unit_scale(K), 2) for K in (10, 20, 100)]
        [6.11, 7.16, 9.1]
    """
    class_count(num_classes, "num_classes")
    if not 1 / num_classes < probability < 1:
        raise ValueError(
            f"probability={probability!r} must lie between 1/K = {1 / num_classes:g}, which a zero "
            "head has, and 1"
        )
    odds = (num_classes - 1) * probability / (1 - probability)
    return (num_classes - 1) / num_classes * math.log(odds)
