"""Sums and maxima of the scores of many orthonormal bases, by the compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._tracing import is_watched
from etf_heads.kernels._cross_entropy import takes
from etf_heads.kernels._library import DTYPES, check, library, threads


def takes_bases(coordinates: Tensor) -> bool:
    """Whether the functions below are for these coordinates, here and now."""
    return coordinates.is_cpu and takes(coordinates) and not is_watched()


def bases_logsumexp(  # noqa: PLR0917
    coordinates: Tensor,
    signs: Tensor,
    first: int,
    classes: int,
    chosen: Tensor | None,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    r"""Log of the sum of exponentials of a task's scores, and its gradient, without the scores.

    Each basis costs one fast Walsh-Hadamard transform, and a second one for the gradient, both of
    which begin or end in the registers that the exponentials are computed in. Results do not depend
    on the number of threads.

    Args:
        coordinates: (samples, n), float32 or float64, of which :func:`takes_bases` holds; n is a
            power of two where there are signs.
        signs: int8 (bases - 1, n) of :class:`~etf_heads.codes.BasesCode`.
        first: the first line of the task.
        classes: K_t.
        chosen: boolean (lines, 2), which ends of lines are classes; all when None.
        gradient: whether it is wanted.

    Returns:
        (samples,), and (samples, n), or (0,) without the gradient.

    Raises:
        ValueError: if dtypes, shapes or lines are not those.

    Example:
        >>> import torch
        >>> from etf_heads.codes import KerdockCode
        >>> code, z = KerdockCode(100, 16), torch.randn(3, 16)
        >>> if takes_bases(z):
        ...     sums, _ = bases_logsumexp(z, code.signs, 0, 100, None, False)
        ...     assert torch.allclose(sums, code(z).logsumexp(1))
    """
    sums = coordinates.new_empty(coordinates.shape[0])
    gradients = coordinates.new_empty(coordinates.shape if gradient else 0)
    _run(coordinates, signs, first, classes, chosen, sums, gradients if gradient else None)
    return sums, gradients


def best_of_bases(
    coordinates: Tensor, signs: Tensor, first: int, classes: int, chosen: Tensor | None
) -> Tensor:
    """The largest score in each basis that a task has lines in, without the scores.

    Args:
        coordinates: as :func:`bases_logsumexp` takes them, and so the others.
        signs: of the bases.
        first: the first line.
        classes: their number.
        chosen: which ends of lines are classes.

    Returns:
        (samples, bases).

    Raises:
        ValueError: as there.
    """
    n = coordinates.shape[-1]
    bases = -(-(first + -(-classes // 2)) // n) - first // n
    best = coordinates.new_empty(bases, coordinates.shape[0])
    _run(coordinates, signs, first, classes, chosen, best, None, best=True)
    return best.mT


def _run(  # noqa: PLR0917
    coordinates: Tensor,
    signs: Tensor,
    first: int,
    classes: int,
    chosen: Tensor | None,
    result: Tensor,
    gradient: Tensor | None,
    best: bool = False,
) -> None:
    lines = -(-classes // 2)
    rows, n = _checked(coordinates, signs, first, classes)
    coordinates = coordinates if coordinates.stride(1) == 1 else coordinates.contiguous()
    signs = signs.contiguous()
    if chosen is not None:
        if chosen.shape != (lines, 2) or chosen.dtype != torch.bool:
            raise ValueError(f"chosen is {chosen.dtype} {tuple(chosen.shape)}, not ({lines}, 2)")
        chosen = chosen.contiguous()
    status = library().etf_heads_bases(
        DTYPES[coordinates.dtype],
        coordinates.data_ptr(),
        coordinates.stride(0),
        rows,
        n,
        signs.data_ptr(),
        first,
        classes,
        None if chosen is None else chosen.data_ptr(),
        result.data_ptr(),
        None if gradient is None else gradient.data_ptr(),
        best,
        threads(rows * lines),
    )
    check(status)


def _checked(coordinates: Tensor, signs: Tensor, first: int, classes: int) -> tuple[int, int]:
    """Samples and n."""
    if coordinates.ndim != 2 or coordinates.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"coordinates are {coordinates.dtype} {tuple(coordinates.shape)}, expected (samples, n)"
            " of float32 or float64"
        )
    rows, n = coordinates.shape
    if signs.shape[1:] != (n,) or signs.dtype != torch.int8 or (len(signs) and n & (n - 1)):
        raise ValueError(
            f"signs are {signs.dtype} {tuple(signs.shape)}, expected int8 (bases - 1, {n}), none "
            "unless this is a power of two"
        )
    room = (len(signs) + 1) * n
    if first < 0 or classes < 1 or first + -(-classes // 2) > room:
        raise ValueError(f"{classes} classes from line {first} on: there are {room} lines")
    return rows, n
