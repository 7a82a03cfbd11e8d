r"""Effective λ's of a trained network in the unconstrained feature model.

A network has no λ_H: its features are outputs, and AdamW's decoupled weight decay on all matrices
is no squared-norm penalty either. What stands here is therefore not derived from the settings but
read off the trained network, by what Theorem 5.1 says of the optimum; nothing forces the readings
to agree with each other, and how far they do is part of the finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.optimize import minimize_scalar
from torch import Tensor

from etf_heads.theory import binary_cosine

LOWEST = 1e-12
"""The least strength that is fitted: logit gaps of 14, more than cross-entropy asks of anyone."""


@dataclass(frozen=True)
class Effective:
    r"""λ's that a network behaves as, see :func:`effective_lambdas`.

    Attributes:
        gap_equal: mean logit gap of images with equal labels.
        gap_different: of images with different labels.
        strength_equal: :math:`\lambda_W \lambda_H N` by the former.
        strength_different: by the latter.
        cosine_from_margins: cosine between the tasks by both.
        lambda_w: :math:`\lambda_W`.
        lambda_h: :math:`\lambda_H`.
    """

    gap_equal: float
    gap_different: float
    strength_equal: float
    strength_different: float
    cosine_from_margins: float
    lambda_w: float
    lambda_h: float


def effective_lambdas(
    features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor
) -> Effective:
    r"""λ_W, λ_H and :math:`C = \lambda_W \lambda_H N` from training images of two binary tasks.

    - At the optimum the logit gap of images with equal labels is
      :math:`\log((1-g)/g)`, :math:`g = \sqrt{C/p}`: the mean gap gives ``strength_equal``. Images
      with different labels (1 - p for p) give ``strength_different``.
    - Class vectors and features are balanced, :math:`\lambda_W \|W\|^2 = \lambda_H \|H\|^2`: their
      norms give λ_H/λ_W, with C = ``strength_equal`` the λ's themselves.
    - The mean gaps alone fix the angle of the class vectors,
      :math:`(\sqrt p\, m_a - \sqrt{1-p}\, m_b) / (\sqrt p\, m_a + \sqrt{1-p}\, m_b)`:
      ``cosine_from_margins``.

    Args:
        features: of all training images, as class vectors meet them, shape (N, d).
        logits: shape (N, 2, 2).
        labels: shape (N, 2).
        weight: class vectors, shape (4, d).
    """
    right = logits.gather(2, labels[:, :, None]).squeeze(2)
    gaps = (2 * right - logits.sum(2)).double().mean(1)  # shape: (N,)
    same = labels[:, 0] == labels[:, 1]
    share = float(same.double().mean())
    equal, different = float(gaps[same].mean()), float(gaps[~same].mean())
    a, b = math.sqrt(share) * equal, math.sqrt(1 - share) * different
    strength = share * _residual(equal) ** 2
    vectors = weight.double().unflatten(0, (2, 2))
    vectors = vectors - vectors.mean(1, keepdim=True)
    centred = features.double() - features.double().mean(0)
    ratio = float(vectors.square().sum() / centred.square().sum())  # λ_H / λ_W
    return Effective(
        gap_equal=equal,
        gap_different=different,
        strength_equal=strength,
        strength_different=(1 - share) * _residual(different) ** 2,
        cosine_from_margins=(a - b) / (a + b),
        lambda_w=math.sqrt(strength / (len(labels) * ratio)),
        lambda_h=math.sqrt(strength * ratio / len(labels)),
    )


def fit_strength(shares: Sequence[float], cosines: Sequence[float]) -> float:
    """The λ_W λ_H N whose closed form is nearest to measured cosines, in least squares.

    At least ``LOWEST``; a fit that ends there says that the cosines are near the limit, or below.
    """
    highest = math.log(0.999 * min(shares) / 4)  # from p/4 on, the head would be zero

    def error(logarithm: float) -> float:
        theory = closed_form(shares, math.exp(logarithm))
        return rms(c - t for c, t in zip(cosines, theory, strict=True))

    best = minimize_scalar(
        error,
        bounds=(math.log(LOWEST), highest),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(math.exp(best.x))


def closed_form(shares: Sequence[float], strength: float) -> list[float]:
    """The cosine of Theorem 5.1 at these shares; only λ_W λ_H N decides it."""
    return [binary_cosine(share, strength, 1.0, 1.0) for share in shares]


def limit_cosine(share: float) -> float:
    """Limit of the closed form as the strength goes to zero, approached only logarithmically."""
    a, b = math.sqrt(share), math.sqrt(1 - share)
    return (a - b) / (a + b)


def rms(differences: Iterable[float]) -> float:
    """Root mean square."""
    squares = [d * d for d in differences]
    return math.sqrt(math.fsum(squares) / len(squares))


def _residual(gap: float) -> float:
    """Probability left to the wrong class of two."""
    return 1 / (1 + math.exp(gap))
