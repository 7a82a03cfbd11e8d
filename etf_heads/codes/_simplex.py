"""Simplex ETFs for one task or several."""

from __future__ import annotations

from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor

from etf_heads._precision import at_least_float32
from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.codes._base import Code
from etf_heads.geometry import helmert_expand, simplex_scale

CrossTask = Literal["orthogonal", "independent"]


class SimplexCode(Code):
    r"""A simplex ETF a task; the columns available decide how the tasks share the space.

    - :math:`\sum K_t` columns: task t is :math:`\sqrt{K_t/(K_t-1)}\,(I - \mathbf 1 \mathbf
      1^\top/K_t)` in its own K_t columns. Products cost one mean a task.
    - :math:`\sum K_t - T` columns, the fewest in which the tasks can be orthogonal: task t is
      :math:`\sqrt{K_t/(K_t-1)}` times the Helmert basis in its own K_t - 1 columns.
    - Fewer: the same blocks, laid around the columns in a ring, so that tasks overlap no more
      than they must. Each task is still a simplex ETF; the tasks are no longer orthogonal.

    Args:
        tasks: K for one task, class counts by name or in order for several.
        columns: one of the above; None for as many as there is room for (:meth:`fitting`), the
            first until then.
        cross_task: "orthogonal", or "independent" to allow the last.

    Raises:
        ValueError: if the tasks do not fit into the columns, or a column would stay empty.

    Example:
        >>> C = SimplexCode([3, 2], columns=3).matrix()
        >>> C @ C.T
        tensor([[ 1.0000, -0.5000, -0.5000,  0.0000,  0.0000],
                [-0.5000,  1.0000, -0.5000,  0.0000,  0.0000],
                [-0.5000, -0.5000,  1.0000,  0.0000,  0.0000],
                [ 0.0000,  0.0000,  0.0000,  1.0000, -1.0000],
                [ 0.0000,  0.0000,  0.0000, -1.0000,  1.0000]], dtype=torch.float64)
    """

    def __init__(
        self,
        tasks: TaskSpec | Tasks,
        columns: int | None = None,
        cross_task: CrossTask = "orthogonal",
    ) -> None:
        tasks = Tasks.parse(tasks)
        if cross_task not in get_args(CrossTask):
            raise ValueError(
                f"cross_task must be one of {', '.join(get_args(CrossTask))}; got {cross_task!r}"
            )
        least = tasks.rank if cross_task == "orthogonal" else max(tasks.sizes) - 1
        if columns not in (None, tasks.total) and not least <= columns <= tasks.rank:
            fewest = "" if least == tasks.rank else f" (or down to {least})"
            raise ValueError(
                f"{cross_task} simplex ETFs of {list(tasks.sizes)} classes take {tasks.total} or "
                f"{tasks.rank}{fewest} columns, the orientation has {columns}"
            )
        super().__init__(tasks, tasks.total if columns is None else columns)
        self.cross_task = cross_task
        self.centred = self.columns == tasks.total
        self._any_columns = columns is None
        self._softmax_scale = None
        if self.centred and tasks.one_size:
            self._softmax_scale = simplex_scale(tasks.sizes[0])

    def fitting(self, in_features: int, columns: int | None = None) -> Code:
        r"""The code in a feature space: with :math:`\sum K_t` columns, or as many as there are.

        Raises:
            ValueError: if the tasks do not fit.
        """
        tasks = self.tasks
        least = tasks.rank if self.cross_task == "orthogonal" else max(tasks.sizes) - 1
        if in_features < least:
            raise ValueError(_too_small(tasks, in_features, self.cross_task))
        if not self._any_columns:
            return super().fitting(in_features, columns)
        if columns is None:
            room = (tasks.total, tasks.rank, in_features)
            columns = next(n for n in room if n <= in_features)
        return SimplexCode(tasks, columns, self.cross_task)

    def expand(self, coordinates: Tensor) -> Tensor:
        """Class scores of coordinates: (..., columns) -> (..., sum K_t)."""
        sizes = self.tasks.sizes
        if self.centred and self.tasks.one_size:
            # Equal tasks in one go: forty binary tasks should not cost forty small kernels.
            grid = coordinates.unflatten(-1, (len(sizes), sizes[0]))
            return ((grid - grid.mean(-1, keepdim=True)) * simplex_scale(sizes[0])).flatten(-2)
        expand = _centre if self.centred else helmert_expand
        blocks = self._blocks(coordinates)
        return torch.cat(
            [expand(z) * simplex_scale(k) for z, k in zip(blocks, sizes, strict=True)], dim=-1
        )

    def vectors(self, indices: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
        r"""Rows of C, each in O(columns): (...) -> (..., columns).

        In its own columns j = 0, 1, ... class k of a task of K classes has
        :math:`\sqrt{K/(K-1)}` times :math:`[j = k] - 1/K`, or of the Helmert basis
        :math:`([j \ge k] - k\,[j = k - 1]) / \sqrt{(j + 1)(j + 2)}`.
        """
        wide = at_least_float32(dtype)
        size, start, first = self._places(indices.unsqueeze(-1), wide)
        columns = torch.arange(self.columns, device=indices.device)
        j = (columns - first) % self.columns  # counted from the first column of the task
        k = indices.unsqueeze(-1) - start
        if self.centred:
            vectors = ((j == k).to(wide) - 1 / size) * (j < size)
        else:
            length = ((j + 1) * (j + 2)).to(wide).sqrt()
            vectors = ((j >= k).to(wide) - k * (j == k - 1)) * (j < size - 1) / length
        return (vectors * (size / (size - 1)) ** 0.5).to(dtype)

    @property
    def softmax_scale(self) -> float | None:
        r""":math:`\sqrt{K/(K-1)}` for tasks of one size K in :math:`\sum K_t` columns."""
        return self._softmax_scale

    def _places(self, indices: Tensor, dtype: torch.dtype) -> tuple[float | Tensor, Tensor, Tensor]:
        """Of the task that each class belongs to: its size, its first row and its first column."""
        sizes, narrower = self.tasks.sizes, 0 if self.centred else 1
        if self.tasks.one_size:
            task = indices // sizes[0]
            return float(sizes[0]), task * sizes[0], task * (sizes[0] - narrower)
        size = torch.tensor(sizes, device=indices.device)
        ends = size.cumsum(0)
        task = torch.bucketize(indices, ends, right=True)
        start = (ends - size)[task]
        return size[task].to(dtype), start, start - narrower * task

    def _blocks(self, coordinates: Tensor) -> list[Tensor]:
        """Each task's own coordinates, around the ring of columns."""
        if self.centred:
            return list(coordinates.split(self.tasks.sizes, dim=-1))
        widths = [k - 1 for k in self.tasks.sizes]
        blocks = []
        for end, width in zip(accumulate(widths), widths, strict=True):
            start = (end - width) % self.columns
            block = coordinates[..., start : start + width]
            missing = width - block.shape[-1]
            if missing:
                block = torch.cat([block, coordinates[..., :missing]], dim=-1)
            blocks.append(block)
        return blocks


def _centre(coordinates: Tensor) -> Tensor:
    return coordinates - coordinates.mean(-1, keepdim=True)


def _too_small(tasks: Tasks, in_features: int, cross_task: CrossTask) -> str:
    sizes = sorted(set(tasks.sizes))
    classes = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    message = f"in_features={in_features} is too small for "
    least = tasks.rank if cross_task == "orthogonal" else max(tasks.sizes) - 1
    if len(tasks) == 1:
        message += f"a simplex ETF of {classes} classes: {least} needed"
    else:
        message += f"{len(tasks)} tasks of {classes} classes with {cross_task} ETFs: {least} needed"
    if in_features >= max(tasks.sizes) - 1:
        return f"{message}; or use cross_task='independent'"
    return f"{message}; or use SphericalCodeHead, for more classes than features"
