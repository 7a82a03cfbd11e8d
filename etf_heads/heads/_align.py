"""Learned class vectors turned towards class means."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etf_heads.heads._feature_norm import UnitFeatureNorm

_UNIT = UnitFeatureNorm()


@torch.no_grad()
def align_(linear: nn.Linear, means: Tensor, step: float = 1.0) -> nn.Linear:
    r"""Turn the centred class vectors of a learned head towards centred class means, in place.

    Each direction moves along the great circle to that of its class mean, by a share ``step`` of
    the angle between them (slerp); lengths stay. Directions and lengths are seen from the mean that
    the class vectors had before. For long tails, between epochs.

    Args:
        linear: the head, K class vectors of d features.
        means: class means (K, d).
        step: share of the angle, from 0 to 1.

    Returns:
        The head.

    Raises:
        ValueError: if means are of another shape, or step is not from 0 to 1.

    Example:
        >>> head, means = nn.Linear(3, 3), torch.eye(3)
        >>> before = head.weight.detach().mean(0)
        >>> directions = align_(head, means).weight - before
        >>> torch.cosine_similarity(directions, means - means.mean(0)).round(decimals=4)
        tensor([1., 1., 1.], grad_fn=<RoundBackward1>)
    """
    weight = linear.weight
    if weight.shape != means.shape:
        raise ValueError(
            f"means has shape {tuple(means.shape)}, expected {tuple(weight.shape)}: one class "
            "mean for each class vector"
        )
    if not 0 <= step <= 1:
        raise ValueError(f"step must be from 0 to 1, got {step!r}")
    precise = weight.double()
    centre = precise.mean(0)
    vectors, means = precise - centre, means.to(precise)
    here, there = _UNIT(vectors), _UNIT(means - means.mean(0))
    cosine = (here * there).sum(1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    # Opposite directions have no great circle of their own: the nearer one of the two, then.
    straight = angle.sin() < 1e-7
    sine = angle.sin().masked_fill(straight, 1)
    turned = ((1 - step) * angle).sin() / sine * here + (step * angle).sin() / sine * there
    turned = torch.where(straight, here if step <= 0.5 else there, turned)
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    known = (there != 0).any(1, keepdim=True)  # of a class whose mean is the centre nothing is
    weight.copy_(centre + torch.where(known, length * turned, vectors))
    return linear
