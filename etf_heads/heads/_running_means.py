"""Running class means of one task or several: sums of a batch, taken together across processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributed

from etf_heads._labels import NO_LABEL, Labels, check_labels
from etf_heads._precision import KeepsPrecision, at_least_float32
from etf_heads._tasks import Tasks


class RunningClassMeans(KeepsPrecision):
    r"""Means of the features of each class, over all samples or with older ones forgotten.

    Each batch in which a class occurs multiplies the weight of that class's older samples by
    ``decay``; the mean is the weighted mean of all its samples. So the first batch already
    gives an unbiased mean, classes that do not occur keep theirs, and ``decay=1`` is the mean
    over everything seen. Means and weights are buffers in ``state_dict``, kept in float32 at
    least, and equal in all processes.

    Args:
        tasks: class counts.
        in_features: d.
        decay: in (0, 1].
        device: of the buffers.
        dtype: of the buffers; float32 where this is less.

    Attributes:
        means: (sum K_t, d), zero for classes not seen.
        counts: (sum K_t,) weight of the samples behind each mean: their number for ``decay=1``.
        updates: how many batches were taken in.

    Example:
        >>> running = RunningClassMeans(Tasks.parse([2]), 1, decay=1.0)
        >>> for h, y in [([[1.0], [3.0]], [0, 0]), ([[5.0], [7.0]], [0, 1])]:
        ...     means = running.update(*class_sums(torch.tensor(h), torch.tensor(y), running.tasks))
        >>> means.flatten(), running.counts
        (tensor([3., 7.]), tensor([3., 1.]))
    """

    exact = ("means", "counts")
    means: Tensor
    counts: Tensor
    updates: Tensor

    def __init__(
        self,
        tasks: Tasks,
        in_features: int,
        decay: float,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.decay = check_decay(decay)
        wide = at_least_float32(dtype or torch.get_default_dtype())
        like = torch.empty(0, device=device, dtype=wide)
        self.register_buffer("means", like.new_zeros(tasks.total, in_features))
        self.register_buffer("counts", like.new_zeros(tasks.total))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=like.device))

    def reset_parameters(self) -> None:
        """Forget everything seen."""
        for buffer in self.buffers():
            buffer.zero_()

    def update(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Take in a batch's :func:`class_sums`; the new means keep the gradient of the sums."""
        kept = torch.where(counts > 0, self.decay * self.counts, self.counts)
        total = kept + counts
        step = (sums - counts[:, None] * self.means) / torch.where(total > 0, total, 1.0)[:, None]
        means = self.means + step
        # New tensors, not new values in the old ones: a graph may still need those.
        self.means, self.counts = means.detach(), total
        self.updates = self.updates + 1
        return means

    def centres(self, means: Tensor) -> Tensor:
        """For each class the average of its task's seen classes, shape (sum K_t, d)."""
        blocks = []
        for rows, size in zip(self.tasks.slices, self.tasks.sizes, strict=True):
            seen = (self.counts[rows] > 0).to(means.dtype)
            centre = seen @ means[rows] / seen.sum().clamp_min(1)
            blocks.append(centre.expand(size, -1))
        return torch.cat(blocks)

    def centred(self, means: Tensor) -> Tensor:
        """Means minus their centres; zero for classes not seen."""
        return (means - self.centres(means)) * (self.counts > 0)[:, None]

    def extra_repr(self) -> str:
        """The decay, for ``print(module)``."""
        return f"decay={self.decay:g}"


def check_decay(decay: float) -> float:
    """A number in (0, 1], or ValueError."""
    if not (math.isfinite(decay) and 0 < decay <= 1):
        raise ValueError(f"decay must lie in (0, 1], 1 for the mean of all; got {decay!r}")
    return decay


def check_finite(features: Tensor) -> None:
    """ValueError if features have entries that are no numbers; waits for the device once."""
    if not features.detach().isfinite().all():
        raise ValueError("features have NaN or infinite entries: this batch was not taken in")


def unit_rows(vectors: Tensor) -> Tensor:
    """Vectors (..., d) divided by their length; zero stays zero."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def class_sums(features: Tensor, labels: Labels, tasks: Tasks) -> tuple[Tensor, Tensor]:
    """Sums of the features of each class, and numbers of samples, in float32 or better.

    Args:
        features: (..., d).
        labels: see :data:`Labels`; -100 for samples without one.
        tasks: class counts.

    Returns:
        Sums (sum K_t, d), differentiable, and counts (sum K_t,).

    Raises:
        ValueError: if labels are no integers, have another shape or are out of range, or
            features are not finite.
    """
    flat = features.reshape(-1, features.shape[-1])
    flat = flat.to(at_least_float32(flat.dtype))
    labels = check_labels(labels, tasks, tuple(features.shape[:-1])).reshape(-1, len(tasks))
    check_finite(flat)
    sums, counts = [], []
    for column, size in zip(labels.unbind(1), tasks.sizes, strict=True):
        rows = torch.where(column == NO_LABEL, size, column)  # one row more, which is left out
        sums.append(flat.new_zeros(size + 1, flat.shape[1]).index_add(0, rows, flat)[:size])
        ones = flat.new_ones(len(flat))
        counts.append(flat.new_zeros(size + 1).index_add(0, rows, ones)[:size])
    return torch.cat(sums), torch.cat(counts)


def class_sums_of_all(features: Tensor, labels: Labels, tasks: Tasks) -> tuple[Tensor, Tensor]:
    """:func:`class_sums` over the batches of all processes; where one refuses its batch, all do.

    Raises:
        ValueError: in every process, if the batch of any is not as it should be.
    """
    if process_count() == 1:
        return class_sums(features, labels, tasks)
    try:
        sums, counts = class_sums(features, labels, tasks)
    except ValueError as error:
        wide = at_least_float32(features.dtype)
        nothing = features.new_zeros(tasks.total, features.shape[-1], dtype=wide)
        return sum_over_processes(nothing, nothing[:, 0], error)
    return sum_over_processes(sums, counts)


def sum_over_processes(
    sums: Tensor, counts: Tensor, refusal: ValueError | None = None
) -> tuple[Tensor, Tensor]:
    """The same of all processes together, in one differentiable exchange; of one, unchanged.

    Args:
        sums: (C, d).
        counts: (C,).
        refusal: why this process has nothing to add. That there is one travels with the sums: had
            it been raised before them, the other processes would wait for this one.

    Raises:
        ValueError: the refusal; in the other processes, one that says where it was.
    """
    if process_count() == 1:
        return sums, counts
    refused = counts.new_zeros(process_count())
    refused[distributed.get_rank()] = refusal is not None
    parts = [sums.flatten(), counts, refused]
    total, counts, refused = _AllReduce.apply(torch.cat(parts)).split([len(p) for p in parts])
    raise_refusals(refused, refusal)
    return total.view_as(sums), counts.detach()


def raise_refusals(refused: Tensor, own: ValueError | None) -> None:
    """The error of this process, or one that names the processes (P,) that have one."""
    if own is not None:
        raise own
    if ranks := refused.nonzero().flatten().tolist():
        raise ValueError(
            f"the batch of process {', '.join(map(str, ranks))} was refused, for what its own "
            "error says: no process took in its batch"
        )


def process_count() -> int:
    """The number of processes that observe together; 1 without torch.distributed."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


class _AllReduce(torch.autograd.Function):
    """Sum over processes; every process's loss depends on the sum, so gradients are summed too."""

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return _AllReduce.apply(grad)
