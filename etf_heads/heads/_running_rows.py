"""Running class means of many classes: a batch reads and writes the rows of its own classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from typing_extensions import Self

from etf_heads._labels import NO_LABEL, check_range
from etf_heads._precision import at_least_float32
from etf_heads._tasks import Tasks
from etf_heads.heads._running_means import (
    check_decay,
    check_finite,
    process_count,
    raise_refusals,
)
from etf_heads.heads._stochastic_rounding import stochastically_rounded

_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


class RunningRows(nn.Module):
    """The means of :class:`RunningClassMeans`, changed in place, row by row.

    Buffers are in ``state_dict``, equal in all processes, and stay in the dtype they are made in.

    Args:
        tasks: class counts.
        in_features: d.
        decay: in (0, 1].
        device: of the buffers.
        dtype: of the means; counts are kept in float32 at least.

    Attributes:
        means: (sum K_t, d), zero for classes not seen.
        counts: (sum K_t,) weight of the samples behind each mean.
        updates: how many batches were taken in.
    """

    means: Tensor
    counts: Tensor
    updates: Tensor

    def __init__(
        self,
        tasks: Tasks,
        in_features: int,
        decay: float,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        if dtype not in _DTYPES:
            raise ValueError(
                f"means_dtype={dtype} is not possible: class means are kept in "
                f"{', '.join(map(str, _DTYPES))}"
            )
        self.tasks, self.decay = tasks, check_decay(decay)
        means = torch.zeros(tasks.total, in_features, device=device, dtype=dtype)
        self.register_buffer("means", means)
        self.register_buffer("counts", means.new_zeros(tasks.total, dtype=at_least_float32(dtype)))
        self.register_buffer("updates", means.new_zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Forget everything seen."""
        for buffer in self.buffers():
            buffer.zero_()

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Take in features (..., d) with labels (..., T), -100 for none."""
        state = self.means, self.counts, self.updates
        if torch.compiler.is_compiling():
            names = self.tasks.names or ()
            _in_graph(features, labels, *state, self.tasks.sizes, names, self.decay)
        else:
            _update(features, labels, _Rows(*state), self.tasks, self.decay)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            moved = getattr(self, name)
            if moved.dtype != kept.dtype:
                setattr(self, name, kept.to(moved.device))
        return self

    def extra_repr(self) -> str:
        """The decay, for ``print(module)``."""
        return f"decay={self.decay:g}"


class _Rows(NamedTuple):
    """The buffers of :class:`RunningRows`."""

    means: Tensor
    counts: Tensor
    updates: Tensor


def _update(features: Tensor, labels: Tensor, state: _Rows, tasks: Tasks, decay: float) -> None:
    means, counts, updates = state
    batch = features.reshape(-1, means.shape[1]), labels.reshape(-1, len(tasks))
    vectors, labels = _batch_of_all(*batch, tasks)
    updates.add_(1)
    labelled = labels != NO_LABEL
    first = torch.tensor([rows.start for rows in tasks.slices], device=labels.device)
    rows, order = (labels + first)[labelled].sort(stable=True)
    if not len(rows):
        return
    rows, lengths = torch.unique_consecutive(rows, return_counts=True)
    # Sums in the order of the samples: with atomic additions processes would come apart.
    vectors = vectors[labelled.nonzero()[order, 0]].to(counts.dtype)
    sums = torch.segment_reduce(vectors, "sum", lengths=lengths)
    old, total = means[rows].to(counts.dtype), counts[rows] * decay + lengths
    new = old + (sums - lengths.unsqueeze(1) * old) / total.unsqueeze(1)
    rounds = means.dtype == torch.bfloat16
    means[rows] = stochastically_rounded(new, rows, updates) if rounds else new
    counts[rows] = total


# One operator in a graph: it looks at values, and at other processes, and no compiler can trace it.
@torch.library.custom_op(
    "etf_heads::observe_rows",
    mutates_args=("means", "counts", "updates"),
    schema=(
        "(Tensor features, Tensor labels, Tensor(a!) means, Tensor(b!) counts, Tensor(c!) updates, "
        "int[] sizes, str[] names, float decay) -> ()"
    ),
)
def _in_graph(*given: Any) -> None:
    features, labels, *state, sizes, names, decay = given
    tasks = Tasks(tuple(sizes), tuple(names) or None)
    _update(features, labels, _Rows(*state), tasks, decay)


@_in_graph.register_fake
def _(*_: Any) -> None:
    return None


def _batch_of_all(features: Tensor, labels: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
    """Features (N, d) and labels (N, T) of all processes; where one refuses its batch, all do.

    Raises:
        ValueError: in every process, if the batch of any is not as it should be.
    """
    refusal = None
    try:
        check_range(labels, tasks, no_label=NO_LABEL)
        check_finite(features)
    except ValueError as error:
        refusal = error
    if process_count() == 1:
        if refusal is not None:
            raise refusal
        return features, labels
    numbers = labels.new_zeros(2, process_count())
    numbers[:, distributed.get_rank()] = labels.new_tensor([len(labels), refusal is not None])
    distributed.all_reduce(numbers)
    raise_refusals(numbers[1], refusal)
    sizes = numbers[0].tolist()
    return _gathered(features, sizes), _gathered(labels, sizes)


def _gathered(part: Tensor, sizes: list[int]) -> Tensor:
    """Rows of all processes, in the order of their ranks."""
    padded = F.pad(part, (0, 0, 0, max(sizes) - len(part)))
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([rows[:size] for rows, size in zip(parts, sizes, strict=True)])
