"""Counts of label combinations: all that the theory needs of the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, TaskSpec


@dataclass(frozen=True, eq=False)
class JointCounts:
    """Sample counts of the label tuples that occur, one row a distinct tuple.

    The sparse form of the tensor of shape (K_1, ..., K_T) that counts samples by their labels:
    forty binary tasks have a trillion possible tuples, of which a data set holds thousands.
    Build it with :meth:`from_labels`, or from a dense tensor with :meth:`parse`.

    Attributes:
        tasks: class counts of the tasks.
        labels: distinct label tuples, int64 of shape (G, T).
        counts: samples of each tuple n_g > 0, float64 of shape (G,).

    Example:
        >>> counts = JointCounts.from_labels(torch.tensor([[0, 1], [1, 0], [0, 1]]), tasks=[2, 2])
        >>> counts.labels.tolist(), counts.counts.tolist()
        ([[0, 1], [1, 0]], [2.0, 1.0])
    """

    tasks: Tasks
    labels: Tensor
    counts: Tensor

    @classmethod
    def from_labels(
        cls, labels: Tensor, tasks: TaskSpec | Tasks, counts: Tensor | None = None
    ) -> JointCounts:
        """Count label tuples.

        Args:
            labels: integers of shape (N, T), or (N,) for one task; row i has the labels of
                sample i.
            tasks: class counts by task name, or in order.
            counts: how many samples each row stands for, shape (N,); 1 each when None. Rows with
                equal labels are added up, rows of count zero dropped.

        Raises:
            ValueError: if shapes or label ranges do not match the tasks, counts are negative or
                not finite, or a class has no sample.
        """
        tasks = Tasks.parse(tasks)
        if labels.ndim == 1:
            labels = labels[:, None]
        if labels.ndim != 2 or labels.shape[1] != len(tasks):
            raise ValueError(
                f"labels has shape {tuple(labels.shape)}; expected (N, {len(tasks)}): one column "
                f"for each of the tasks {list(tasks.labels)}"
            )
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels must be integers, got {labels.dtype}; use labels.long()")
        if counts is None:
            counts = torch.ones(len(labels), dtype=torch.float64, device=labels.device)
        if counts.shape != labels.shape[:1]:
            raise ValueError(
                f"counts has shape {tuple(counts.shape)}; expected one count for each of the "
                f"{len(labels)} rows of labels"
            )
        counts = _checked_counts(counts, "counts")
        sizes = torch.tensor(tasks.sizes, device=labels.device)
        outside = ((labels < 0) | (labels >= sizes)).nonzero()
        if len(outside):
            row, task = outside[0].tolist()
            raise ValueError(
                f"labels[{row}, {task}]={labels[row, task]} is outside task "
                f"{tasks.labels[task]!r}, whose classes are 0 to {tasks.sizes[task] - 1}"
            )
        labels, counts = labels[counts > 0].long(), counts[counts > 0]
        distinct, group = torch.unique(labels, dim=0, return_inverse=True)
        totals = torch.zeros(len(distinct), dtype=torch.float64, device=labels.device)
        return cls(tasks, distinct, totals.index_add_(0, group, counts))._checked()

    @classmethod
    def parse(cls, label_counts: Tensor | JointCounts) -> JointCounts:
        """Take a dense tensor of shape (K_1, ..., K_T), or joint counts as they are.

        Raises:
            ValueError: if a count is negative or not finite, or a class has no sample.
        """
        if isinstance(label_counts, JointCounts):
            return label_counts
        if label_counts.ndim == 0:
            raise ValueError(
                "label_counts must have one dimension for each task, shape (K_1, ..., K_T); got a "
                "single number"
            )
        tasks = Tasks.parse(tuple(label_counts.shape), "label_counts.shape")
        counts = _checked_counts(label_counts, "label_counts")
        labels = counts.nonzero()
        return cls(tasks, labels, counts[tuple(labels.T)])._checked()

    @property
    def total(self) -> float:
        """Number of samples N."""
        return float(self.counts.sum())

    @property
    def rows(self) -> Tensor:
        """Positions of each tuple's classes among all class vectors, int64 of shape (G, T)."""
        starts = [task.start for task in self.tasks.slices]
        return self.labels + torch.tensor(starts, device=self.labels.device)

    @property
    def class_counts(self) -> Tensor:
        """Samples of every class of every task, shape (sum K_t,)."""
        rows = self.rows
        totals = torch.zeros(self.tasks.total, dtype=self.counts.dtype, device=rows.device)
        return totals.index_add_(0, rows.flatten(), self.counts.repeat_interleave(len(self.tasks)))

    def _checked(self) -> JointCounts:
        seen = self.class_counts
        for name, task in zip(self.tasks.labels, self.tasks.slices, strict=True):
            unseen = (seen[task] == 0).nonzero().flatten().tolist()
            if unseen:
                raise ValueError(
                    f"class {unseen[0]} of task {name!r} has no samples (unseen classes: "
                    f"{unseen}); every class must occur: leave unseen classes out, or give them "
                    "a small count"
                )
        return self


def _checked_counts(counts: Tensor, argument: str) -> Tensor:
    if counts.is_complex():
        raise ValueError(f"{argument} must be real numbers, got {counts.dtype}")
    counts = counts.double()
    if not counts.isfinite().all():
        raise ValueError(f"{argument} has entries that are NaN or infinite")
    if (counts < 0).any():
        raise ValueError(f"{argument} has negative entries, the lowest is {counts.min().item():g}")
    return counts
