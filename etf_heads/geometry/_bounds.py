"""Bounds on codes of unit vectors: how small can the largest cosine be?"""

from __future__ import annotations

import math

import torch

from etf_heads._tasks import class_count, positive_int


def rankin_bound(num_classes: int, dim: int) -> float:
    r"""Least possible largest cosine of K unit vectors in d dimensions, for K up to 2d.

    Rankin, "The closest packing of spherical caps in n dimensions" (1955): -1/(K-1) for K up to
    d + 1, reached by the simplex; 0 from there to 2d, reached by the cross-polytope. Above 2d it
    stays 0, which is true and says little: see :func:`levenshtein_bound`.

    Example:
        >>> rankin_bound(3, 2), rankin_bound(100, 64)
        (-0.5, 0.0)
    """
    num_classes, dim = class_count(num_classes, "num_classes"), positive_int(dim, "dim")
    return -1 / (num_classes - 1) if num_classes <= dim + 1 else 0.0


def welch_bound(num_classes: int, dim: int) -> float:
    r"""Least possible largest :math:`|\cos|` of K unit vectors in d dimensions.

    Welch, "Lower bounds on the maximum cross correlation of signals" (1974):
    :math:`\sqrt{(K - d) / (d (K - 1))}`, 0 for K up to d.

    Example:
        >>> round(welch_bound(1000, 64), 4)
        0.121
    """
    num_classes, dim = class_count(num_classes, "num_classes"), positive_int(dim, "dim")
    return math.sqrt(max(0, num_classes - dim) / (dim * (num_classes - 1)))


def levenshtein_bound(num_classes: int, dim: int) -> float:
    r"""Least possible largest cosine of K unit vectors in d dimensions, for any K.

    Levenshtein, "Universal bounds for codes and designs" (Handbook of Coding Theory, 1998). With
    the Gegenbauer polynomials :math:`P_k` of the sphere, :math:`P_k(1) = 1`, a code of largest
    cosine s has at most

    .. math::
        L_{2k-1}(s) &= \tbinom{k+d-3}{k-1} \Bigl[\tfrac{2k+d-3}{d-1} -
            \tfrac{P_{k-1}(s) - P_k(s)}{(1-s) P_k(s)}\Bigr] \\
        L_{2k}(s) &= \tbinom{k+d-2}{k} \Bigl[\tfrac{2k+d-1}{d-1} -
            \tfrac{(1+s) (P_k(s) - P_{k+1}(s))}{(1-s) (P_k(s) + P_{k+1}(s))}\Bigr]

    vectors, each between zeros of neighbouring polynomials; the bound is the s at which that is
    K. Up to 2d it is that of :func:`rankin_bound`.

    Args:
        num_classes: K.
        dim: d, at least 2.

    Raises:
        ValueError: if d is 1, where there are only two unit vectors.

    Example:
        >>> round(levenshtein_bound(4000, 64), 4)
        0.1225
    """
    num_classes, dim = class_count(num_classes, "num_classes"), positive_int(dim, "dim")
    if dim == 1:
        raise ValueError("dim=1: only two unit vectors exist; take dim of at least 2")
    if num_classes <= 2 * dim:
        return rankin_bound(num_classes, dim)
    if dim == 2:
        return math.cos(2 * math.pi / num_classes)
    # L_3 begins at 0, where it is 2d; each next one begins where the one before it ends.
    known, order = 2, 4
    while _most(order, dim, _end(order, dim)) < num_classes:
        known, order = order, 2 * order
    while order - known > 1:
        middle = (known + order) // 2
        if _most(middle, dim, _end(middle, dim)) < num_classes:
            known = middle
        else:
            order = middle
    low, high = 0.0 if order == 3 else _end(order - 1, dim), _end(order, dim)
    while True:
        s = (low + high) / 2
        if not low < s < high:
            return high
        if _most(order, dim, s) >= num_classes:
            high = s
        else:
            low = s


def _most(order: int, dim: int, s: float) -> float:
    """The largest size L_order(s) of a code."""
    k = (order + 1) // 2 if order % 2 else order // 2
    before, here, after = 0.0, 1.0, s  # P_{i-1}, P_i, P_{i+1} at i = 0
    for i in range(1, k + 1):
        before, here = here, after
        after = ((2 * i + dim - 2) * s * here - i * before) / (i + dim - 2)
    if order % 2:
        ratio = (before - here) / ((1 - s) * here)
        return math.comb(k + dim - 3, k - 1) * ((2 * k + dim - 3) / (dim - 1) - ratio)
    ratio = (1 + s) * (here - after) / ((1 - s) * (here + after))
    return math.comb(k + dim - 2, k) * ((2 * k + dim - 1) / (dim - 1) - ratio)


def _end(order: int, dim: int) -> float:
    """The upper end of the interval of L_order: the largest zero of a Jacobi polynomial."""
    k = (order + 1) // 2
    beta = (dim - 3) / 2 + (0 if order % 2 else 1)
    alpha = (dim - 3) / 2 + 1
    i = torch.arange(k, dtype=torch.float64, device="cpu")
    total = 2 * i + alpha + beta
    diagonal = (beta**2 - alpha**2) / (total * (total + 2))
    diagonal[0] = (beta - alpha) / (alpha + beta + 2)  # where the above may be 0/0
    i, total = i[1:], total[1:]
    above = 4 * i * (i + alpha) * (i + beta) * (i + alpha + beta)
    off = (above / (total**2 * (total + 1) * (total - 1))).sqrt()
    matrix = torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)
    return float(torch.linalg.eigvalsh(matrix)[-1])
