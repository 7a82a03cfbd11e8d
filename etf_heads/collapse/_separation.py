"""Separation of classes from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from etf_heads.collapse._statistics import ClassStatistics


def separation_fuzziness(statistics: ClassStatistics) -> float:
    r"""Separation fuzziness, :math:`D = \operatorname{tr}(SS_w SS_b^+)`.

    He and Su, "A law of data separation in deep learning" (PNAS 2023). SS_w is the sum of squares
    of samples about their class means, SS_b that of the class means about the mean of all samples,
    each class weighted by its samples. With classes of equal size it is K times ``nc1``.

    Args:
        statistics: with the scatter.

    Raises:
        ValueError: without the scatter, or if only one class was seen.

    Example:
        >>> features = torch.tensor([[-2.0], [0.0], [3.0], [5.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> round(separation_fuzziness(ClassStatistics.from_batch(features, labels)), 6)  # 4/25
        0.16
    """
    if statistics.scatter is None:
        raise ValueError("the separation fuzziness needs the scatter: covariance='full'")
    if len(statistics.keys) < 2:
        raise ValueError("samples of only one class were seen: update with more data first")
    sizes = statistics.counts.to(torch.float64).sqrt()[:, None]
    rows = sizes * (statistics.means - statistics.sample_mean)
    values, vectors = torch.linalg.svd(rows, full_matrices=False)[1:]
    # Rounding of the means alone makes singular values of their size.
    floor = torch.finfo(values.dtype).eps * max(rows.shape)
    kept = values > floor * torch.maximum(values[0], (sizes * statistics.means).norm())
    if not kept.any():
        return math.inf if statistics.within > 0 else math.nan
    vectors = vectors[kept]
    return float((((vectors @ statistics.scatter) * vectors).sum(1) / values[kept].square()).sum())


def separation_law(values: Sequence[float]) -> dict[str, float]:
    r"""The law of equi-separation, :math:`D_l = D_0 \rho^l`, fitted to the layers of a network.

    He and Su (PNAS 2023): every layer of a trained network reduces the fuzziness by the same
    factor. Least squares of log D_l on l.

    Args:
        values: D_l of at least two layers in their order, positive.

    Returns:
        ``rate`` ρ, ``initial`` D_0, ``correlation`` of log D_l and l (-1: the law holds exactly),
        ``r_squared``, and ``half_life``, the layers that halve D (infinite when it does not fall).

    Raises:
        ValueError: for fewer than two values, or one that has no logarithm.

    Example:
        >>> {name: round(value, 6) for name, value in separation_law([8.0, 4.0, 2.0]).items()}
        {'rate': 0.5, 'initial': 8.0, 'correlation': -1.0, 'r_squared': 1.0, 'half_life': 1.0}
    """
    if len(values) < 2 or not all(0 < value < math.inf for value in values):
        raise ValueError(f"values must be two or more positive finite numbers, got {list(values)}")
    logs = torch.tensor(values, dtype=torch.float64).log()
    layers = torch.arange(len(values), dtype=torch.float64)
    x, y = layers - layers.mean(), logs - logs.mean()
    slope = float((x @ y) / (x @ x))
    norm = float(x.norm() * y.norm())
    correlation = float(x @ y) / norm if norm > 0 else math.nan
    return {
        "rate": math.exp(slope),
        "initial": math.exp(float(logs.mean()) - slope * float(layers.mean())),
        "correlation": correlation,
        "r_squared": correlation**2,
        "half_life": math.log(2) / -slope if slope < 0 else math.inf,
    }
