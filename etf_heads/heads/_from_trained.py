"""Fixed heads that fit a trained network: made from its classifier, or from its features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._labels import Labels
from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.codes import SimplexCode
from etf_heads.geometry import nearest_orientation
from etf_heads.heads._fixed import FixedHead
from etf_heads.heads._linear import joined_biases
from etf_heads.heads._nearest import check_fit, fixed_head
from etf_heads.heads._running_means import (
    RunningClassMeans,
    class_sums,
    sum_over_processes,
)

Linears = nn.Linear | nn.ModuleDict | nn.ModuleList | Mapping[str, nn.Linear] | Sequence[nn.Linear]


@torch.no_grad()
def from_linear(linears: Linears) -> FixedHead:
    r"""The fixed head nearest to a trained linear classifier, or to those of several tasks.

    - Orientation: that of the ETF nearest to the weights, all tasks together
      (:func:`~etf_heads.geometry.nearest_orientation`). What the weights of a task have in
      common is lost; it adds the same number to all logits of the task, which softmax and
      argmax do not see.
    - Scale: the least-squares length of the class vectors, one for all tasks, so that logits
      keep their size: it minimises :math:`\|W - s F\|`, F the unit frame, W centred per task.
    - Bias: copied where there is one, and learned further as it was; zero for other tasks.

    Args:
        linears: one ``nn.Linear``, or one a task over the same features, by name or in order.

    Returns:
        An :class:`ETFHead` for one linear layer, a :class:`CompoundETFHead` for several, of
        their dtype and device.

    Raises:
        ValueError: if they are no linear layers of one width, the ETFs do not fit into it, or
            all class vectors of each task are the same.

    Example:
        >>> linear = nn.Linear(8, 3)
        >>> head = from_linear(linear)
        >>> type(head).__name__, torch.equal(head.bias, linear.bias)
        ('ETFHead', True)
    """
    layers, tasks = _layers_and_tasks(linears)
    check_fit(layers[0].in_features, tasks)
    weight = torch.cat([layer.weight for layer in layers])
    orientation = nearest_orientation(weight, tasks)
    frame = SimplexCode(tasks, tasks.rank).expand(orientation).mT
    scale = float((weight.to(frame.dtype) * frame).sum() / tasks.total)
    if not scale > torch.finfo(frame.dtype).eps * float(weight.abs().max()):
        raise ValueError("linears have the same weight for all classes: no frame is nearest")
    bias = joined_biases([layer.bias for layer in layers], tasks.sizes, weight)
    return fixed_head(orientation, tasks, bias=bias, scale=scale, like=weight.new_empty(0))


@torch.no_grad()
def from_features(
    batches: Iterable[tuple[Tensor, Labels]],
    tasks_or_classes: TaskSpec | int,
    *,
    bias: bool = True,
    scale: float = 1.0,
) -> FixedHead:
    r"""The fixed head nearest to the class means of features, gathered in one pass.

    - Orientation: that of the ETF nearest to the class means, all tasks together. Classes that
      do not occur are placed as :func:`~etf_heads.geometry.nearest_orientation` says.
    - Bias: :math:`b = -s F \bar\mu`, with :math:`\bar\mu` the average of a task's class means,
      so that the head sees features from their centre; learned further. Features that a ReLU
      made all positive lose much accuracy without.
    - Scale: as given. It does not change which class wins. Means alone do not determine it: the
      best one depends on how features spread within classes and where training takes them.

    Args:
        batches: pairs of features (..., d) and labels, as
            :meth:`NearestETFHead.observe` takes them. For a loader of images, give
            ``((backbone(x), y) for x, y in loader)``. With torch.distributed initialised, each
            process gives its share, and all get the same head.
        tasks_or_classes: K for one task; a mapping or sequence of class counts for several.
        bias: whether the head has the bias above.
        scale: s, the length of the class vectors.

    Returns:
        An :class:`ETFHead` for one task, a :class:`CompoundETFHead` for several, of the
        features' dtype and device.

    Raises:
        ValueError: if there are no batches, labels or features are not as above, or the ETFs do
            not fit.

    Example:
        >>> h, y = torch.eye(6)[:3] + 10, torch.tensor([0, 1, 2])
        >>> head = from_features([(h, y)], 3)
        >>> head(h).argmax(-1).tolist()
        [0, 1, 2]
    """
    tasks = Tasks.parse(tasks_or_classes, "tasks_or_classes")
    local, like = None, None
    for features, labels in batches:
        if local is None:
            like = features.new_empty(0)
            check_fit(features.shape[-1], tasks)
            local = _running(tasks, features.shape[-1], like)
        local.update(*class_sums(features, labels, tasks))
    if local is None or like is None:
        raise ValueError("batches is empty: no features to gather class means from")
    everywhere = _running(tasks, local.means.shape[1], like)
    sums, counts = sum_over_processes(local.means * local.counts[:, None], local.counts)
    means = everywhere.update(sums, counts)
    orientation = nearest_orientation(everywhere.centred(means), tasks)
    offset = None
    if bias:
        frame = SimplexCode(tasks, tasks.rank).expand(orientation).mT
        offset = -scale * (frame * everywhere.centres(means)).sum(-1)
    return fixed_head(orientation, tasks, bias=offset, scale=scale, like=like)


def _running(tasks: Tasks, in_features: int, like: Tensor) -> RunningClassMeans:
    return RunningClassMeans(tasks, in_features, 1.0, device=like.device, dtype=like.dtype)


def _layers_and_tasks(linears: Linears) -> tuple[list[nn.Linear], Tasks]:
    given: list[Any]
    if isinstance(linears, nn.ModuleDict | Mapping):
        given = list(linears.values())
    elif isinstance(linears, nn.ModuleList | Sequence):
        given = list(linears)
    else:
        given = [linears]
    for layer in given:
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"linears must be nn.Linear layers, got {type(layer).__name__}")
    widths = sorted({layer.in_features for layer in given})
    if len(widths) > 1:
        raise ValueError(f"linears must take the same features, but their in_features are {widths}")
    sizes: Any = [layer.out_features for layer in given]
    if isinstance(linears, nn.ModuleDict | Mapping):
        sizes = dict(zip(linears, sizes, strict=True))
    elif isinstance(linears, nn.Linear):
        (sizes,) = sizes
    return given, Tasks.parse(sizes, "linears")
