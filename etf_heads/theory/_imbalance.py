"""One task with unequal classes: when the rare ones lose their own class vectors."""

from __future__ import annotations

from etf_heads._tasks import positive_int
from etf_heads.theory._checks import positive


def minority_collapse_ratio(
    num_major: int, num_minor: int, lambda_w: float, lambda_h: float, n: float
) -> float:
    r"""The imbalance from which the rare classes of a single task share one class vector.

    Fang, He, Long and Su ("Exploring deep neural networks via layer-peeled model: minority
    collapse in imbalanced training", PNAS 2021) train K_A classes with R times the samples of
    K_B others and see the rare classes merge when R is large. In the unconstrained feature model
    the threshold is exact. Suppose the rare classes have merged; then the part of the residuals
    that separates them is that of their labels alone and has spectral norm
    :math:`\sqrt{n_B/N}`, and merging is optimal if and only if that stays within the dual bound
    :math:`2 \sqrt{\lambda_W \lambda_H N}` of the convex problem (:func:`optimal_gram`). So a rare
    class needs :math:`n_B/N > 4 \lambda_W \lambda_H N`, and with N fixed

    .. math:: R^* = \frac{1}{K_A} \left(\frac{1}{4 \lambda_W \lambda_H N} - K_B\right).

    Args:
        num_major: K_A, number of frequent classes.
        num_minor: K_B, number of rare classes, at least 2.
        lambda_w: regulariser of the class vectors, mean-loss convention.
        lambda_h: regulariser of the features.
        n: number of samples N of all classes together, held fixed as R varies.

    Returns:
        R*: the rare classes merge when a frequent class has at least R* times the samples of a
        rare one. At most 1 when even balanced classes have a zero head.

    Raises:
        ValueError: if a number is not positive or num_minor < 2.

    Example:
        >>> minority_collapse_ratio(2, 3, lambda_w=5e-3, lambda_h=1e-3, n=1000)
        23.5
    """
    positive_int(num_major, "num_major")
    if positive_int(num_minor, "num_minor") < 2:
        raise ValueError(f"num_minor={num_minor}: at least 2 rare classes are needed to merge")
    positive(lambda_w=lambda_w, lambda_h=lambda_h, n=n)
    return (1 / (4 * lambda_w * lambda_h * n) - num_minor) / num_major
