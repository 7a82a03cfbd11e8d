"""Codes of more classes than dimensions, found numerically, and the distance they maximise."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads._tasks import class_count, positive_int
from etf_heads.geometry._compound import compound_etf
from etf_heads.geometry._simplex import simplex_etf

_LARGEST = 4096  # classes: a Gram matrix of 128 MiB in each step
_WARM, _COLD = (8.0, 32.0, 128.0), (512.0, 2048.0)  # inverse temperatures
_SMALL, _STARTS = 64, 8  # up to 64 classes, the best of eight starts


def softmax_code(
    num_classes: int, dim: int, *, steps: int = 100, dtype: torch.dtype = torch.float64
) -> Tensor:
    r"""Unit class vectors as far apart as optimisation finds, for any K and d.

    Jiang et al., "Generalized neural collapse for a large number of classes" (ICML 2024): with
    features of unit length, cross-entropy ends at a *softmax code*, which maximises
    :func:`one_vs_rest_distance`; unless vectors are free to rattle that is the code of the
    smallest largest cosine (Tammes' problem). Known codes are returned where they are best: the
    simplex for K up to d + 1, orthogonal simplices from there to 2d (the cross-polytope), the
    regular polygon for d = 2. For others, L-BFGS minimises

    .. math:: \tfrac1\beta \log \sum_{k \neq j} \exp(\beta \langle w_k, w_j\rangle)

    for growing :math:`\beta` from fixed starts: a local optimum, near the best known for small
    sizes, and the same in every call on the same machine and version of torch.

    Args:
        num_classes: K, up to 4,096.
        dim: d, at least 2 unless K = 2.
        steps: of L-BFGS for each of the five values of :math:`\beta`.
        dtype: of the result; the work is done in float64.

    Returns:
        Tensor of shape (K, d), rows of length one.

    Raises:
        ValueError: if K is too large for this, or d for K.

    Example:
        >>> icosahedron = softmax_code(12, 3)
        >>> gram = icosahedron @ icosahedron.T - 2 * torch.eye(12)
        >>> round(float(gram.max()), 4)  # 1/sqrt(5)
        0.4472
    """
    num_classes, dim = class_count(num_classes, "num_classes"), positive_int(dim, "dim")
    steps = positive_int(steps, "steps")
    if num_classes <= dim + 1:
        return simplex_etf(num_classes, dim, dtype=dtype)
    if dim == 1:
        raise ValueError(f"dim=1 has two unit vectors, not {num_classes}: take dim of at least 2")
    if num_classes > _LARGEST:
        raise ValueError(
            f"num_classes={num_classes:,} is too many to optimise, {_LARGEST:,} are possible; "
            "etf_heads.codes.KerdockCode has a formula for up to dim * (dim + 2)"
        )
    if num_classes <= 2 * dim:
        simplices = num_classes - dim  # of K classes in d = K - simplices dimensions
        size, larger = divmod(num_classes, simplices)
        sizes = [size + 1] * larger + [size] * (simplices - larger)
        return compound_etf(sizes, dim, dtype=dtype)
    if dim == 2:
        angles = torch.arange(num_classes, dtype=torch.float64) * (2 * math.pi / num_classes)
        return torch.stack([angles.cos(), angles.sin()], dim=1).to(dtype)
    return _optimised(num_classes, dim, steps).to(dtype)


def _optimised(num_classes: int, dim: int, steps: int) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(0)
    found = []
    for _ in range(_STARTS if num_classes <= _SMALL else 1):
        shape = (num_classes, dim)
        start = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        found.append(_descend(start, _WARM, steps))
    return _descend(min(found, key=_largest_cosine), _COLD, steps)


def _descend(points: Tensor, temperatures: Iterable[float], steps: int) -> Tensor:
    itself = torch.eye(len(points), dtype=torch.bool, device="cpu")
    for beta in temperatures:
        points = F.normalize(points.detach()).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [points],
            max_iter=steps,
            history_size=20,
            tolerance_grad=1e-10,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def energy(points: Tensor = points, beta: float = beta) -> Tensor:
            points.grad = None
            units = F.normalize(points)
            gram = (units @ units.T).masked_fill(itself, -math.inf)
            value = torch.logsumexp(beta * gram.flatten(), dim=0) / beta
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(energy)
    return F.normalize(points.detach())


def _largest_cosine(units: Tensor) -> float:
    return float((units @ units.T).fill_diagonal_(-1).max())
