"""The simplex ETF, or compound ETF, nearest to given class means: one polar factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from etf_heads._precision import at_least_float32
from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.geometry._polar import exact_products, polar, polar_and_null_space
from etf_heads.geometry._riemannian import riemannian_polar
from etf_heads.geometry._simplex import helmert_contract, helmert_expand, simplex_scale

Solver = Literal["polar", "riemannian"]


def nearest_etf(
    means: Tensor,
    tasks: TaskSpec | Tasks | None = None,
    *,
    task_weights: Sequence[float] | None = None,
    previous: Tensor | None = None,
    proximal: float = 0.0,
) -> Tensor:
    r"""The ETF nearest to class means, in closed form and differentiable.

    Markou, Ajanthan and Gould, "Guiding Neural Collapse: Optimising Towards the Nearest Simplex
    Equiangular Tight Frame" (NeurIPS 2024) find it with a Riemannian trust region. In the
    Helmert form :math:`W = \sqrt{K/(K-1)}\, E P^\top` (:func:`helmert`) the objective is linear
    in the orientation P, so that one polar factor solves it, see :func:`nearest_orientation`.

    Args:
        means: one class mean a row, shape (..., sum K_t, d), of any scale and with any centre.
        tasks: class counts, for a compound ETF: each task's frame nearest to its means, and the
            tasks orthogonal. None for one task.
        task_weights: how much the distance of each task counts; 1 when None.
        previous: a frame (..., sum K_t, d) as this function returns it: what ``proximal`` keeps
            close to, and what decides where the means do not. The first coordinates when None.
        proximal: :math:`\delta`, the weight of the paper's proximal term.

    Returns:
        W, shape (..., sum K_t, d): unit rows, simplex ETFs, orthogonal across tasks. Changing
        the means by a positive factor, or a task's means by a common vector, does not change it.

    Raises:
        ValueError: if the shapes do not fit, d < sum K_t - T, or means are not finite.

    Note:
        Means that do not decide W, as when classes were not seen yet, are no error: see
        :func:`nearest_orientation`.

    Example:
        >>> means = torch.tensor([[9.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
        >>> W = nearest_etf(means)
        >>> W @ W.T
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]])
        >>> W.argmax(0)[:2].tolist()
        [0, 1]
    """
    parsed = _tasks_of(means, tasks)
    if previous is not None:
        _check_shape(previous, (parsed.total, means.shape[-1]), "previous")
        previous = _contract(previous, parsed, [1 / simplex_scale(k) for k in parsed.sizes])
    orientation = nearest_orientation(
        means, parsed, task_weights=task_weights, previous=previous, proximal=proximal
    )
    widths = [k - 1 for k in parsed.sizes]
    blocks = zip(orientation.split(widths, dim=-1), parsed.sizes, strict=True)
    return torch.cat([helmert_expand(p) * simplex_scale(k) for p, k in blocks], dim=-1).mT


def nearest_orientation(
    means: Tensor,
    tasks: TaskSpec | Tasks | None = None,
    *,
    task_weights: Sequence[float] | None = None,
    previous: Tensor | None = None,
    proximal: float = 0.0,
    solver: Solver = "polar",
) -> Tensor:
    r"""The orientation of the nearest ETF: orthonormal columns, of all tasks together.

    Of the frames :math:`W_t = \sqrt{K_t/(K_t-1)}\, E_t P_t^\top` with orthonormal
    :math:`P = [P_1 \dots P_T]`, it minimises :math:`\sum_t \omega_t \|H_t - \alpha W_t\|^2` for
    every length :math:`\alpha > 0` at once. As :math:`\|W_t\|` is constant, that is linear in P,
    with the maximum

    .. math:: P = \mathrm{polar}(B), \qquad
              B = [\omega_t \sqrt{K_t/(K_t-1)}\, H_t^\top E_t]_{t=1..T} .

    With the proximal term of the paper (there for one task), the objective is
    :math:`\|B/\|B\| - P/\sqrt n\|^2 + (\delta/2) \|P - P_0\|^2`, n the number of columns, and
    :math:`P = \mathrm{polar}(2 B / (\sqrt n \|B\|) + \delta P_0)`.

    **What the means leave open.** B lacks rank when classes have not been seen yet (give them
    the average of the others), or means coincide. Then many frames are equally near, and P is
    the one of them nearest to ``previous``: the limit of a vanishing proximal weight. If even
    that leaves some columns open, a factorisation chooses them. To the gradient, which columns
    are missing is a constant: it is exact for changes that keep the rank, and zero along others.

    Args:
        means: as in :func:`nearest_etf`.
        tasks: as there.
        task_weights: :math:`\omega_t`, positive.
        previous: :math:`P_0`, shape (..., d, sum K_t - T), orthonormal columns; the first
            coordinates when None.
        proximal: :math:`\delta`.
        solver: "polar"; or "riemannian" for :func:`riemannian_polar` started at ``previous``,
            which takes one set of means and has no gradient.

    Returns:
        P, shape (..., d, sum K_t - T).

    Raises:
        ValueError: as in :func:`nearest_etf`, or for an unknown solver.

    Example:
        >>> P = nearest_orientation(torch.eye(5, 8), [3, 2])
        >>> P.shape, torch.allclose(P.T @ P, torch.eye(3))
        (torch.Size([8, 3]), True)
    """
    parsed = _tasks_of(means, tasks)
    check_solver(solver)
    if not (math.isfinite(proximal) and proximal >= 0):
        raise ValueError(f"proximal must be a finite number of at least 0, got {proximal!r}")
    weights = parsed.weights(task_weights)
    if not means.isfinite().all():
        raise ValueError("means must be finite: leave out NaN and infinite features")
    work = _of_order_one(means.to(at_least_float32(means.dtype)))
    shape = (means.shape[-1], parsed.rank)
    if previous is None:
        reference = torch.eye(*shape, dtype=work.dtype, device=work.device)
    else:
        _check_shape(previous, shape, "previous")
        reference = previous.to(work.dtype)
    scales = [w * simplex_scale(k) for w, k in zip(weights, parsed.sizes, strict=True)]
    matrix = _contract(work, parsed, scales)
    if proximal:
        length = torch.linalg.matrix_norm(matrix, keepdim=True)
        length = length.clamp_min(torch.finfo(length.dtype).tiny)
        matrix = 2 / math.sqrt(parsed.rank) * matrix / length + proximal * reference
    if solver == "riemannian":
        return riemannian_polar(matrix, reference).to(means.dtype)
    with exact_products(work):
        return _complete_polar(matrix, reference).to(means.dtype)


def _of_order_one(means: Tensor) -> Tensor:
    """Means times a power of two, which changes no digit, so that no product over- or underflows.

    The nearest ETF is the same, whatever the scale.
    """
    largest = means.detach().abs().amax((-2, -1), keepdim=True)
    exponent = -torch.frexp(largest).exponent
    # In two steps: the inverse of the smallest numbers is not a number.
    half = exponent.div(2, rounding_mode="floor")
    one = torch.ones_like(largest)
    return means * torch.ldexp(one, half) * torch.ldexp(one, exponent - half)


def check_solver(solver: str) -> None:
    """ValueError for an unknown solver."""
    if solver not in get_args(Solver):
        raise ValueError(f"solver must be one of {', '.join(get_args(Solver))}; got {solver!r}")


def _complete_polar(matrix: Tensor, reference: Tensor) -> Tensor:
    """Polar factor; where the matrix lacks rank, the one nearest to the reference."""
    factor, null = polar_and_null_space(matrix)
    if not null.any():
        return factor
    decided = factor - factor @ null
    wanted = reference @ null
    # Orthogonal to what is decided on both sides, and so no change to it.
    open_ = wanted - decided @ (decided.mT @ wanted)
    return polar(decided + open_)


def _contract(frame: Tensor, tasks: Tasks, scales: Sequence[float]) -> Tensor:
    """Rows in Helmert coordinates, each task's scaled: (..., sum K_t, d) -> (..., d, rank)."""
    blocks = zip(frame.mT.split(tasks.sizes, dim=-1), scales, strict=True)
    return torch.cat([helmert_contract(block) * scale for block, scale in blocks], dim=-1)


def _tasks_of(means: Tensor, tasks: TaskSpec | Tasks | None) -> Tasks:
    if means.ndim < 2 or not means.is_floating_point():
        raise ValueError(
            "means must be a floating-point tensor of shape (..., classes, d), got "
            f"{means.dtype} of shape {tuple(means.shape)}"
        )
    rows, dim = means.shape[-2:]
    if tasks is None and rows < 2:
        raise ValueError(f"means have {rows} rows: a task needs at least 2 classes")
    parsed = Tasks((rows,)) if tasks is None else Tasks.parse(tasks)
    if rows != parsed.total:
        raise ValueError(
            f"means have {rows} rows, tasks of {list(parsed.sizes)} classes need {parsed.total}: "
            "one a class, the tasks below each other"
        )
    if dim < parsed.rank:
        raise ValueError(
            f"means have {dim} dimensions, too few for orthogonal simplex ETFs of "
            f"{list(parsed.sizes)} classes: {parsed.rank} needed"
        )
    return parsed


def _check_shape(given: Tensor, shape: tuple[int, int], argument: str) -> None:
    if given.shape[-2:] != shape:
        raise ValueError(
            f"{argument} has shape {tuple(given.shape)}, its last dimensions must be {shape}"
        )
