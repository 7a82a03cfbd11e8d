"""The error exponent: decay of a linear classifier's error as features concentrate."""

from __future__ import annotations

import torch
from torch import Tensor


def error_exponent(
    weight: Tensor, means: Tensor, covariance: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    r"""Exponents E_k of the error of a linear classifier on Gaussian classes.

    For features :math:`N(\mu_k, s^2 \Sigma)` of class k, the probability of another decision falls
    like :math:`e^{-E_k/s^2}` as s goes to 0, with

    .. math:: E_k = \min_{j \neq k}
              \frac{\max(0, \langle w_k - w_j, \mu_k \rangle + b_k - b_j)^2}
                   {2 (w_k - w_j)^\top \Sigma (w_k - w_j)}

    The smallest E_k is that of the whole. It is 0 for a class whose mean is decided for another.
    Unit class means on a simplex ETF and class vectors along them reach K/(4(K-1)), the best
    possible: min ‖μ_k - μ_j‖²/8. Class vectors that turn away from the means lose.

    Args:
        weight: (K, d) class vectors, K at least 2.
        means: (K, d) class means as the class vectors meet them.
        covariance: (d, d) Σ, positive definite; the identity when None.
        bias: (K,) b; zero when None.

    Returns:
        (K,) float64 exponents; nan for a class with the class vector of another.

    Raises:
        ValueError: for wrong shapes.

    Example:
        >>> from etf_heads.geometry import simplex_etf
        >>> etf = simplex_etf(10)
        >>> round(float(error_exponent(3 * etf, etf).min()), 6)  # 10/36
        0.277778
    """
    count, dim = weight.shape if weight.ndim == 2 else (0, 0)
    if count < 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected (K, d) with K >= 2")
    needed: dict[str, tuple[Tensor, tuple[int, ...]]] = {"means": (means, (count, dim))}
    if covariance is not None:
        needed["covariance"] = (covariance, (dim, dim))
    if bias is not None:
        needed["bias"] = (bias, (count,))
    for name, (given, shape) in needed.items():
        if tuple(given.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(given.shape)}, expected {shape}")
    weight, means = weight.detach().to(torch.float64), means.detach().to(weight.device).double()
    logits = means @ weight.T  # of the means
    if bias is not None:
        logits = logits + bias.detach().to(logits)
    spread = weight if covariance is None else weight @ covariance.detach().to(weight)
    exponents = []
    for k in range(count):  # differences first: products of whole vectors would cancel
        others = torch.arange(count, device=weight.device) != k
        gaps = (logits[k, k] - logits[k, others]).clamp_min(0)
        squares = ((weight[k] - weight[others]) * (spread[k] - spread[others])).sum(1)
        exponents.append((gaps.square() / (2 * squares)).min())
    return torch.stack(exponents)
