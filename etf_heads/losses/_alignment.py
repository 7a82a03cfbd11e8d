"""Misalignment of class vectors and class means, for long tails."""

from __future__ import annotations

from torch import Tensor

from etf_heads.losses._sphere import unit


def alignment_penalty(weight: Tensor, means: Tensor) -> Tensor:
    r"""One less the mean cosine of centred class vectors and centred class means.

    .. math:: 1 - \frac1K \sum_k \cos(w_k - \bar w,\; \mu_k - \bar\mu)

    It is 0 where class vectors and class means are self-dual, as neural collapse has them, and
    grows where long-tailed data turn them away from each other. Added to a loss with a factor, it
    turns a learned head's class vectors to running class means (which are taken as constants)::

        loss = criterion(features, linear, labels) + eta * alignment_penalty(linear.weight, means)

    Args:
        weight: class vectors of one task (K, d).
        means: class means of the features (K, d), such as
            ``etf_heads.collapse.SingleTaskCollapse`` and heads that observe keep them; no
            gradient goes there.

    Returns:
        A number from 0 to 2.

    Raises:
        ValueError: if the shapes differ, or there is only one class.

    Example:
        >>> import torch
        >>> weight = torch.eye(3)
        >>> float(alignment_penalty(weight, 5 * weight + 1).abs() < 1e-6)
        1.0
        >>> round(float(alignment_penalty(weight, -weight)), 6)
        2.0
    """
    if weight.ndim != 2 or weight.shape != means.shape or len(weight) < 2:
        raise ValueError(
            "weight and means must be one vector a class, both of shape (K, d) with K >= 2; got "
            f"{tuple(weight.shape)} and {tuple(means.shape)}"
        )
    vectors = unit(weight - weight.mean(0))
    directions = unit((means - means.mean(0)).detach()).to(vectors.dtype)
    return 1 - (vectors * directions).sum(1).mean()
