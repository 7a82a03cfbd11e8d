"""Assigned codes: the vectors of another code, permuted or selected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.codes._base import Code
from etf_heads.codes._bases import BasesCode


class AssignedCode(Code):
    r"""The class vectors of another code: class k has its row ``assignment[k]``.

    With as many classes as the code has rows, that is a permutation; with fewer, a choice. Which
    row a class has is data: it is kept in ``state_dict`` (8 bytes a class), and products stay
    those of the code.

    Args:
        code: that has the vectors.
        tasks: the tasks of this code, each with no more classes than there; None for the same.

    Attributes:
        assignment: (sum K_t,) rows of the code; at first those of the same position in each task.

    Raises:
        ValueError: if a task has more classes than the code.

    Example:
        >>> from etf_heads.codes import KerdockCode
        >>> code = AssignedCode(KerdockCode(288, 16), 3)
        >>> code.assign(torch.tensor([287, 5, 40]))
        >>> torch.equal(code.matrix(), KerdockCode(288, 16).matrix()[[287, 5, 40]])
        True
    """

    assignment: Tensor
    classes: Tensor

    def __init__(self, code: Code, tasks: TaskSpec | Tasks | None = None) -> None:
        super().__init__(code.tasks if tasks is None else tasks, code.columns)
        self.base = code
        sizes, room = self.tasks.sizes, code.tasks.sizes
        if len(sizes) != len(room) or any(k > n for k, n in zip(sizes, room, strict=True)):
            raise ValueError(f"tasks of {list(sizes)} classes, the code has {list(room)}")
        device = next((b.device for b in code.buffers()), None)
        self.register_buffer("assignment", torch.empty(self.rows, dtype=torch.int64, device=device))
        classes = torch.empty(code.rows, dtype=torch.int32, device=device)
        self.register_buffer("classes", classes, persistent=False)
        self.reset_parameters()

    def arguments(self) -> dict[str, Any]:
        """The code and the tasks; the assignment is in ``state_dict``."""
        return {"code": self.base, "tasks": self.tasks}

    @property
    def streams(self) -> bool:  # type: ignore[override]
        """Whether the code does."""
        return self.base.streams

    def assign(self, rows: Tensor) -> None:
        """Give the classes of all tasks these rows of the code, each to one class of its own task.

        Raises:
            ValueError: if rows are not possible.
        """
        rows = rows.to(self.assignment)
        problem = self._problem(rows)
        if problem:
            raise ValueError(problem)
        self.assignment = rows.clone()
        self._refresh()

    def reset_parameters(self) -> None:
        """Each class has the row of its own position again."""
        start = [
            torch.arange(rows.start, rows.start + k, device=self.assignment.device)
            for rows, k in zip(self.base.tasks.slices, self.tasks.sizes, strict=True)
        ]
        self.assignment = torch.cat(start)
        self._refresh()

    def fitting(self, in_features: int, columns: int | None = None) -> Code:
        """The same assignment of the code as it fits."""
        base = self.base.fitting(in_features, columns)
        if base is self.base:
            return self
        fitted = AssignedCode(base, self.tasks)
        fitted.assign(self.assignment)
        return fitted

    def expand(self, coordinates: Tensor) -> Tensor:
        """Class scores: (..., columns) -> (..., sum K_t)."""
        return self.base.expand(coordinates)[..., self.assignment]

    def vectors(self, indices: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows of C: (...) -> (..., columns)."""
        return self.base.vectors(self.assignment[indices], dtype=dtype)

    def logsumexp(self, coordinates: Tensor, task: int = 0) -> Tensor:
        """Log of the sum of exponentials of a task's scores: (samples, columns) -> (samples,)."""
        if isinstance(self.base, BasesCode):
            return self.base.logsumexp(coordinates, task, among=self._used(task))
        return super().logsumexp(coordinates, task)

    def topk(self, coordinates: Tensor, k: int, task: int = 0) -> tuple[Tensor, Tensor]:
        """The best scores of a task and their classes, best first."""
        if not isinstance(self.base, BasesCode):
            return super().topk(coordinates, k, task)
        values, rows = self.base.topk(coordinates, k, task, among=self._used(task))
        classes = self.classes[rows + self.base.tasks.slices[task].start].long()
        return values, classes - self.tasks.slices[task].start

    def row_sum(self, task: int = 0) -> Tensor:
        """Sum of the class vectors of a task, (columns,) in float64."""
        if isinstance(self.base, BasesCode):
            return self.base.row_sum(task, among=self._used(task))
        return super().row_sum(task)

    def _used(self, task: int) -> Tensor | None:
        """Mask of a task's rows that belong to a class; None for all."""
        rows = self.base.tasks.slices[task]
        if self.tasks.sizes[task] == rows.stop - rows.start:
            return None
        return self.classes[rows] >= 0

    def _problem(self, rows: Tensor) -> str | None:
        if rows.shape != (self.rows,):
            return f"rows has shape {tuple(rows.shape)}, expected {(self.rows,)}"
        if rows.is_meta:
            return None
        for own, possible in zip(self.tasks.slices, self.base.tasks.slices, strict=True):
            some = rows[own]
            if some.min() < possible.start or some.max() >= possible.stop:
                return f"rows must be from {possible.start} to {possible.stop - 1} for this task"
        if len(rows.unique()) < len(rows):
            return "two classes have the same row"
        return None

    def _refresh(self) -> None:
        """The class of each row, -1 of those without one, from the row of each class."""
        classes = torch.full_like(self.classes, -1)
        indices = torch.arange(self.rows, dtype=torch.int32, device=classes.device)
        self.classes = classes.index_put((self.assignment,), indices)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *strict_and_problems: Any,
    ) -> None:
        loaded = state_dict.get(f"{prefix}assignment")
        problem = None if loaded is None else self._problem(loaded)
        if problem:
            strict_and_problems[-1].append(f"{prefix}assignment: {problem}")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *strict_and_problems)
        if loaded is not None:
            self._refresh()
