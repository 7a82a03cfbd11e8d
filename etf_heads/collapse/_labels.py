"""Features as users give them, checked; label tuples, numbered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from etf_heads._labels import NO_LABEL, Labels, check_labels
from etf_heads._tasks import Tasks

MultiSourceFeatures = Mapping[str, Tensor] | Sequence["Tensor | None"]
"""One tensor a task; tasks without samples in a batch are left out, or None in a sequence."""

MAX_TUPLES = 2**62  # label tuples are numbered in int64


def strides(tasks: Tasks) -> tuple[int, ...]:
    """Strides of the tasks in the row-major numbering of label tuples."""
    steps = [1]
    for size in reversed(tasks.sizes):
        steps.append(steps[-1] * size)
    if steps[-1] > MAX_TUPLES:
        raise ValueError(
            f"tasks have {steps[-1]:.3g} label tuples, at most 2^62 can be numbered: measure "
            f"fewer of the {len(tasks)} tasks together"
        )
    return tuple(reversed(steps[:-1]))


def tuple_keys(labels: Tensor, tasks: Tasks) -> Tensor:
    """Number each label tuple: (B, T) -> (B,) int64, the last task varying fastest."""
    return (labels * torch.tensor(strides(tasks), device=labels.device)).sum(1)


def task_labels(keys: Tensor, tasks: Tasks) -> Tensor:
    """The inverse of :func:`tuple_keys`: (G,) -> (G, T)."""
    steps = torch.tensor(strides(tasks), device=keys.device)
    return (keys[:, None] // steps) % torch.tensor(tasks.sizes, device=keys.device)


def check_features(features: Tensor, num_features: int, argument: str = "features") -> Tensor:
    """A (B, d) floating tensor, or ValueError."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        given = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"{argument} must be a tensor of a floating dtype, got {given}")
    if features.ndim != 2 or features.shape[1] != num_features:
        raise ValueError(
            f"{argument} has shape {tuple(features.shape)}, expected (batch, {num_features}); "
            f"reshape or pool other dimensions first"
        )
    return features


def check_sources(
    features: MultiSourceFeatures, labels: MultiSourceFeatures, tasks: Tasks, num_features: int
) -> list[tuple[int, Tensor, Tensor]]:
    """(task, (B_t, d) features, (B_t,) labels) of every task present, or ValueError.

    Samples without a label are left out.
    """
    given = _by_task(features, "features", tasks)
    targets = _by_task(labels, "labels", tasks)
    if set(given) != set(targets):
        raise ValueError(
            f"features are of the tasks {sorted(given)}, labels of {sorted(targets)}: "
            f"both are needed for every task of a batch"
        )
    sources = []
    for name, own in given.items():
        task = tasks.labels.index(name)
        check_features(own, num_features, f"features[{name!r}]")
        alone = Tasks((tasks.sizes[task],), (name,))
        sources.append((task, *labelled(own, {name: targets[name]}, alone)))
    return sources


def labelled(features: Tensor, labels: Labels, task: Tasks) -> tuple[Tensor, Tensor]:
    """Checked features (B', d) and labels (B',) of the samples that have a label of one task."""
    found = check_labels(labels, task, (len(features),))[:, 0]
    present = found != NO_LABEL
    if bool(present.all()):
        return features, found
    return features[present.to(features.device)], found[present]


def _by_task(given: MultiSourceFeatures, argument: str, tasks: Tasks) -> dict[str, Tensor]:
    if isinstance(given, Tensor) or not isinstance(given, (Mapping, Sequence)):
        raise ValueError(
            f"{argument} must map task names to tensors, or list one tensor (or None) a task: "
            f"tasks have samples of their own; got {type(given).__name__}"
        )
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(tasks.labels))
        if unknown:
            raise ValueError(f"{argument} has the tasks {unknown}, known are {list(tasks.labels)}")
        return dict(given)
    named = zip(tasks.labels, tasks.unpack(given, argument), strict=True)
    return {name: value for name, value in named if value is not None}
