"""Two binary tasks whose labels are correlated: the angle between the tasks (Theorem 5.1)."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from etf_heads.theory._checks import positive


@overload
def binary_cosine(p: float, lambda_w: float, lambda_h: float, n: float) -> float: ...
@overload
def binary_cosine(p: Tensor, lambda_w: float, lambda_h: float, n: float) -> Tensor: ...
def binary_cosine(p: float | Tensor, lambda_w: float, lambda_h: float, n: float) -> float | Tensor:
    r"""Cosine between the class vectors of two correlated binary tasks at the optimum.

    "Neural Collapse in Multi-Task Learning", Theorem 5.1. Each task is balanced, and a share p of
    the samples has equal labels, so the tuples (0,0) and (1,1) have pN/2 samples each and (0,1)
    and (1,0) have (1-p)N/2. With :math:`C = \lambda_W \lambda_H N`,

    .. math:: g_a = \sqrt{C/p}, \quad g_b = \sqrt{C/(1-p)}, \quad
              A = \frac{\log((1-g_a)/g_a)}{g_a}, \quad B = \frac{\log((1-g_b)/g_b)}{g_b}, \quad
              \cos(w^1_0, w^2_0) = \frac{A - B}{A + B}

    where g is the probability that the optimal logits leave to the wrong class in either kind of
    tuple. The theorem's formula is valid while both are below 1/2, and three regimes lie beyond:

    - :math:`g_b \ge 1/2 > g_a`: the rare tuples are given up (B = 0) and the tasks' class vectors
      merge: cosine 1. The formula tends to 1 as :math:`g_b \to 1/2`, so nothing jumps.
    - :math:`g_a \ge 1/2 > g_b` (p < 1/2): the same with the labels of one task exchanged: -1.
    - both: the best head is zero and no angle is defined: NaN.

    As :math:`C \to 0` the cosine tends to
    :math:`(\sqrt p - \sqrt{1-p}) / (\sqrt p + \sqrt{1-p})`.

    Args:
        p: share of samples with equal labels, in [0, 1]; a number, or a tensor of any shape.
        lambda_w: regulariser of the class vectors, mean-loss convention
            (:func:`mean_loss_lambdas` converts).
        lambda_h: regulariser of the features.
        n: number of samples N.

    Returns:
        The cosine in [-1, 1], a number or a float64 tensor as p was; NaN where the head is zero.

    Raises:
        ValueError: if p is outside [0, 1] or another argument is not positive.

    Example:
        >>> round(binary_cosine(0.9, lambda_w=5e-3, lambda_h=1e-5, n=400), 6)
        0.581874
        >>> binary_cosine(torch.tensor([0.5, 1.0]), lambda_w=5e-3, lambda_h=1e-5, n=400)
        tensor([0., 1.], dtype=torch.float64)
    """
    positive(lambda_w=lambda_w, lambda_h=lambda_h, n=n)
    shares = torch.as_tensor(p, dtype=torch.float64)
    outside = shares[~((shares >= 0) & (shares <= 1))]
    if outside.numel():
        raise ValueError(
            f"p={outside[0].item():g} is not a share of samples: it must be between 0 and 1"
        )
    strength = lambda_w * lambda_h * n
    equal, different = _margin(shares, strength), _margin(1 - shares, strength)
    cosine = (equal - different) / (equal + different)
    return cosine if isinstance(p, Tensor) else float(cosine)


def _margin(share: Tensor, strength: float) -> Tensor:
    """Logit margin of tuples with this share of the samples over their residual."""
    residual = (strength / share).sqrt().clamp(max=0.5)  # at 1/2 the margin is 0: given up
    return (torch.log1p(-residual) - torch.log(residual)) / residual
