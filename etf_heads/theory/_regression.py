"""Regression: the optimal head follows from the covariance of the targets alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads.theory._checks import positive


def regression_gram(target_covariance: Tensor, lambda_w: float, lambda_h: float) -> Tensor:
    r"""Gram matrix of the optimal regression head.

    "The Prevalence of Neural Collapse in Neural Multivariate Regression" (NeurIPS 2024). The
    unconstrained feature model over M samples with targets Y in :math:`\mathbb R^{n \times M}`,

    .. math:: \frac{1}{2M} \|W H + b \mathbf 1^\top - Y\|^2 + \frac{\lambda_H}{2M} \|H\|^2
              + \frac{\lambda_W}{2} \|W\|^2,

    has its minimum, with :math:`\Sigma` the covariance of the targets, at

    .. math:: W W^\top = \sqrt{\lambda_H / \lambda_W}\,
              [\Sigma^{1/2} - \sqrt{\lambda_W \lambda_H}\, I]_+

    where the bracket clips eigenvalues at zero: directions in which the targets deviate by less
    than :math:`\sqrt{\lambda_W \lambda_H}` are given up.

    Args:
        target_covariance: Σ of shape (n, n), symmetric positive semidefinite, in the targets'
            units squared, with 1/M (not 1/(M-1)) before the sum.
        lambda_w: regulariser of the head.
        lambda_h: regulariser of the features.

    Returns:
        Float64 tensor of shape (n, n).

    Raises:
        ValueError: if the covariance is not a finite, symmetric, positive semidefinite matrix or
            a λ is not positive.

    Example:
        >>> regression_gram(torch.diag(torch.tensor([4.0, 1.0, 0.0])), 1.0, 0.25)
        tensor([[0.7500, 0.0000, 0.0000],
                [0.0000, 0.2500, 0.0000],
                [0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    positive(lambda_w=lambda_w, lambda_h=lambda_h)
    rows, columns = target_covariance.shape if target_covariance.ndim == 2 else (0, 0)
    if rows != columns or rows == 0:
        raise ValueError(
            f"target_covariance has shape {tuple(target_covariance.shape)}; expected (n, n)"
        )
    # Round-off of the dtype in which the covariance was computed is no asymmetry.
    given = target_covariance.dtype
    slack = torch.finfo(given if given.is_floating_point else torch.float64).eps ** 0.5
    covariance = target_covariance.double()
    if not covariance.isfinite().all():
        raise ValueError("target_covariance has entries that are NaN or infinite")
    largest = covariance.abs().max().item()
    if (covariance - covariance.T).abs().max() > slack * largest:
        raise ValueError(
            "target_covariance is not symmetric; take torch.cov(targets, correction=0)"
        )
    variances, axes = torch.linalg.eigh((covariance + covariance.T) / 2)
    if variances[0] < -slack * largest:
        raise ValueError(
            f"target_covariance has the negative eigenvalue {variances[0].item():g}: no targets "
            "have this covariance"
        )
    kept = (variances.clamp(min=0).sqrt() - math.sqrt(lambda_w * lambda_h)).clamp(min=0)
    gram: Tensor = math.sqrt(lambda_h / lambda_w) * (axes * kept) @ axes.T
    return gram
