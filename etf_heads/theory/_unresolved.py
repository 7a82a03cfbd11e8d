"""Class vectors that the certificate of an optimal geometry cannot distinguish from zero."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from etf_heads.theory._checks import weights_of
from etf_heads.theory._optimal_gram import OptimalGeometry

_SMALL = 0.03  # of the largest squared length: larger vectors are not zero, whatever the gap
_ROUND_OFF = 1e-12  # relative error of the objective as it is evaluated here


@torch.no_grad()
def unresolved_classes(
    geometry: OptimalGeometry,
    lambda_w: float,
    lambda_h: float,
    task_weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Classes whose optimal vectors may be zero, as far as the duality gap proves anything.

    Strong regularisation gives up whole tasks, and rare classes: their optimal vectors are zero.
    A solver ends near that, with small vectors whose directions mean nothing. Where setting the
    smallest vectors of a task to zero raises the convex objective by no more than the gap, both
    are equally good answers, and the vectors are unresolved.

    Args:
        geometry: from :func:`optimal_gram`.
        lambda_w: as given to it.
        lambda_h: as given to it.
        task_weights: as given to it.

    Returns:
        Booleans, shape (sum K_t,).

    Example:
        >>> from etf_heads.theory import optimal_gram
        >>> lambdas = 1e-2, 2e-3  # a binary task stands this, one of six classes does not
        >>> best = optimal_gram(torch.tensor([[300] * 6, [100] * 6]), *lambdas)
        >>> unresolved_classes(best, *lambdas).int()
        tensor([0, 0, 1, 1, 1, 1, 1, 1], dtype=torch.int32)
    """
    counts, squares = geometry.counts, geometry.gram.diagonal()
    weights = weights_of(counts.tasks, task_weights).to(squares.device)
    root = weights.sqrt().repeat_interleave(torch.tensor(counts.tasks.sizes, device=squares.device))
    shares = counts.counts / counts.total
    strength = 2 * math.sqrt(lambda_w * lambda_h * counts.total)

    def objective(logits: Tensor) -> float:
        blocks = zip(counts.tasks.slices, weights, counts.labels.T, strict=True)
        losses = sum(
            c * -logits[:, rows].log_softmax(1).gather(1, y[:, None])[:, 0] for rows, c, y in blocks
        )
        spectrum = torch.linalg.svdvals(logits * root * shares.sqrt()[:, None])
        return float(shares @ losses + strength * spectrum.sum())

    highest = objective(geometry.logits) * (1 + max(geometry.duality_gap, _ROUND_OFF))
    unresolved = torch.zeros_like(squares, dtype=torch.bool)
    for rows in counts.tasks.slices:
        small = rows.start + (squares[rows] < _SMALL * squares.max()).nonzero().flatten()
        ascending = small[squares[small].argsort()]

        def costs_more(number: int, ascending: Tensor = ascending) -> bool:
            return objective(geometry.logits.index_fill(1, ascending[:number], 0.0)) > highest

        # A whole task first: part of an ETF that is zero costs more than all of it.
        number = len(ascending)
        if number and costs_more(number):
            number = bisect.bisect_left(range(1, number + 1), True, key=costs_more)
        unresolved[ascending[:number]] = True
    return unresolved
