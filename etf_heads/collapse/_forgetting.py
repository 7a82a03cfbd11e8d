"""Forgetting of earlier tasks by the classifier, and by the features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Accuracies = Tensor | Sequence[Sequence[float]]
"""A (T, T) matrix: row i, column j is the accuracy on task j after session i."""


def forgetting(head: Accuracies, probe: Accuracies) -> dict[str, float]:
    r"""Shallow and deep forgetting of a network that learned T tasks one after the other.

    Lanzillotta, Meier and Hofmann, "Asymptotic analysis of shallow and deep forgetting in replay
    with neural collapse" (2025, arXiv 2512.07400). With A_ij the accuracy of the classifier on task
    j after session i, and A*_ij that of a linear probe that is fitted anew to the features after
    session i,

    .. math:: F^\text{shallow}_{ij} = A_{jj} - A_{ij}, \qquad
              F^\text{deep}_{ij} = A^*_{jj} - A^*_{ij}

    Deep forgetting is lost by the features; where it is small and shallow forgetting large, a new
    classifier on the same features would bring the accuracy back. Returned are the means over the
    earlier tasks j < T after the last session i = T. Negative values are tasks that got better.

    Args:
        head: (T, T), A, T at least 2. Entries above the diagonal, of tasks that are yet to come,
            are not read and may be NaN; neither are rows between the diagonal and the last.
        probe: (T, T), A*.

    Returns:
        ``shallow`` and ``deep``.

    Raises:
        ValueError: for matrices that are not square, of different sizes or of one session, and for
            accuracies outside [0, 1].

    Example:
        >>> head = [[1.0, 0.0, 0.0], [0.5, 0.9, 0.0], [0.25, 0.65, 0.95]]
        >>> probe = [[1.0, 0.0, 0.0], [1.0, 0.9, 0.0], [0.9, 0.9, 1.0]]
        >>> {name: round(value, 6) for name, value in forgetting(head, probe).items()}
        {'shallow': 0.5, 'deep': 0.05}
    """
    matrices = {"head": _matrix(head, "head"), "probe": _matrix(probe, "probe")}
    sizes = {name: len(matrix) for name, matrix in matrices.items()}
    if sizes["head"] != sizes["probe"]:
        raise ValueError(
            f"head is of {sizes['head']} sessions and probe of {sizes['probe']}: both need a row "
            "for every session"
        )
    return {"shallow": _mean_loss(matrices["head"]), "deep": _mean_loss(matrices["probe"])}


def _mean_loss(accuracy: Tensor) -> float:
    return float((accuracy.diagonal()[:-1] - accuracy[-1, :-1]).mean())


def _matrix(given: Accuracies, argument: str) -> Tensor:
    try:
        matrix = torch.as_tensor(given, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument} must be a (T, T) matrix of accuracies, a row for each session: {error}"
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(
            f"{argument} has shape {tuple(matrix.shape)}, expected (T, T) with T >= 2: in row "
            "i and column j the accuracy on task j after session i"
        )
    read = torch.cat([matrix.diagonal(), matrix[-1]])
    if not bool(((read >= 0) & (read <= 1)).all()):
        raise ValueError(
            f"{argument} has accuracies outside [0, 1] on its diagonal or in its last row: give "
            "shares, not percentages, of every task seen"
        )
    return matrix
