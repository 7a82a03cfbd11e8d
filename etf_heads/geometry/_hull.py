"""Distances of vectors to the convex hull of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_BLOCK = 2**22  # products at a time: 32 MiB


def one_vs_rest_distance(vectors: Tensor, rows: Iterable[int] | None = None) -> float:
    r"""Smallest distance of a vector to the convex hull of the others.

    .. math:: \min_k \operatorname{dist}\bigl(v_k, \operatorname{conv}\{v_j : j \neq k\}\bigr)

    which a softmax code maximises among unit vectors (Jiang et al. 2024). Each distance is a
    non-negative least squares problem (Lawson and Hanson), solved by SciPy on the CPU over the
    nearest others first: the point found is that of all others once none of them lies nearer in its
    direction. A vector is left out when the largest product with another already shows that its
    distance is not the smallest. 10,000 vectors of 64 dimensions take tens of seconds.

    Args:
        vectors: (K, d), K at least 2.
        rows: which k to take the smallest over; all when None. One is enough for a code that
            looks the same from all of its vectors.

    Raises:
        ImportError: without SciPy.

    Example:
        >>> round(one_vs_rest_distance(torch.eye(4)), 4)  # sqrt(1 + 1/3)
        1.1547
    """
    try:
        from scipy.optimize import nnls  # noqa: PLC0415 - not a direct core dependency
    except ImportError as error:
        raise ImportError(
            'the one-versus-rest distance requires SciPy: pip install "etf_heads[recipes]"'
        ) from error
    vectors = vectors.detach().to("cpu", torch.float64)
    if not vectors.isfinite().all():
        return math.nan
    chosen = torch.arange(len(vectors)) if rows is None else torch.tensor(list(rows))
    bounds = _lower_bounds(vectors, chosen)
    smallest = math.inf
    for i in bounds.argsort().tolist():
        if float(bounds[i]) >= smallest:
            break
        smallest = min(smallest, _distance(vectors, int(chosen[i]), nnls))
    return smallest


def _lower_bounds(vectors: Tensor, rows: Tensor) -> Tensor:
    """Distances of v_k to the half-space ⟨v_k, .⟩ <= max_j ⟨v_k, v_j⟩, which has all others."""
    lengths = vectors.norm(dim=1)[rows].clamp_min(torch.finfo(vectors.dtype).tiny)
    largest = []
    for part in rows.split(max(1, _BLOCK // len(vectors))):
        products = vectors[part] @ vectors.T
        largest.append(products.scatter_(1, part[:, None], -math.inf).amax(1))
    return (lengths.square() - torch.cat(largest)) / lengths


def _distance(vectors: Tensor, row: int, nnls: Callable[..., Any]) -> float:
    own, dim = vectors[row], vectors.shape[1]
    tolerance = 1e-14 * float(vectors.norm(dim=1).amax())
    shortfall = vectors @ own
    shortfall[row] = -math.inf
    chosen = shortfall.topk(min(len(vectors) - 1, max(64, dim // 2))).indices
    squares = math.inf
    while True:
        others = vectors[chosen] - own
        # min over u >= 0 of ‖Pu‖² + (1ᵀu - 1)² is reached at t α, where α is the point of the
        # simplex that minimises ‖Pα‖ and t = 1/(1 + ‖Pα‖²): no penalty, no tolerance.
        system = torch.cat([others, torch.ones(len(others), 1, dtype=torch.float64)], dim=1).T
        goal = torch.zeros(len(system), dtype=torch.float64)
        goal[-1] = 1
        shares = torch.from_numpy(nnls(system.numpy(), goal.numpy())[0])
        point = shares / shares.sum() @ others
        found = float(point.square().sum())
        # ‖p‖ is the distance to all others once none is nearer along p; it falls until then.
        nearer = (vectors - own) @ point < found - tolerance * math.sqrt(found)
        nearer[row] = nearer[chosen] = False
        if not nearer.any() or found >= squares:
            return math.sqrt(found)
        squares = found
        shortfall = (vectors @ point).masked_fill(~nearer, math.inf)
        count = min(int(nearer.sum()), max(64, dim // 4))
        chosen = torch.cat([chosen[shares > 0], shortfall.topk(count, largest=False).indices])
