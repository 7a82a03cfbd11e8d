"""The cross-entropy of those heads that a compiled kernel is for."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads import kernels
from etf_heads._labels import Labels, check_range, stack_labels
from etf_heads._tracing import is_traced
from etf_heads.codes import SimplexCode
from etf_heads.heads import FixedHead
from etf_heads.orientation import CanonicalOrientation, TiledOrientation


def compiled_means(
    features: Tensor,
    head: object,
    labels: Labels,
    *,
    ignore_index: int,
    smoothing: float,
    total: bool,
) -> Tensor | None:
    """Mean losses of the labelled samples, task by task, (T,); None where no kernel is for them.

    Args:
        features: (..., d).
        head: any.
        labels: as users give them.
        ignore_index: the label of samples that have none.
        smoothing: share of the target that is spread evenly over all classes.
        total: whether to return the sum over the tasks, ().

    Raises:
        ValueError: if labels do not fit, or one is out of range.
    """
    if not isinstance(head, FixedHead) or not kernels.takes(features):
        return None
    geometry = _geometry(head)
    if geometry is None:
        return None
    tasks = head.tasks
    targets = stack_labels(labels, tasks, tuple(features.shape[:-1]))
    prepared = head.prepare(features)
    if features.ndim != 2:
        targets, prepared = targets.flatten(0, -2), prepared.flatten(0, -2)
    eager = partial(_means_in_operations, head, geometry[1], targets, ignore_index, smoothing)
    # A normalisation may have made something else of them.
    if prepared is not features and not is_traced() and not kernels.takes(prepared):
        if targets.is_cpu:
            check_range(targets, tasks, no_label=ignore_index)
        means = eager(prepared)
        return means.sum() if total else means
    try:
        return kernels.mean_cross_entropies(
            prepared,
            targets,
            geometry,
            ignore_index=ignore_index,
            smoothing=smoothing,
            total=total,
            eager=eager,
        )
    except ValueError:
        if not is_traced():
            check_range(targets, tasks, no_label=ignore_index)
        raise


def _means_in_operations(  # noqa: PLR0917
    head: FixedHead,
    scale: float,
    targets: Tensor,
    ignore_index: int,
    smoothing: float,
    prepared: Tensor,
) -> Tensor:
    """The same means (T,), of prepared features, in operations of PyTorch."""
    logits = head.codebook(head.orientation.project(prepared, scale))
    sums = [
        F.cross_entropy(z, y, reduction="sum", ignore_index=ignore_index, label_smoothing=smoothing)
        for z, y in zip(logits.split(head.tasks.sizes, dim=1), targets.unbind(1), strict=True)
    ]
    return torch.stack(sums) / (targets != ignore_index).sum(0).clamp(min=1)


def _geometry(head: FixedHead) -> kernels.Geometry | None:
    """A head of simplices in tiles, and nothing but that, as the kernel takes it."""
    code, kind, scale = head.codebook, type(head.orientation), head.scale
    if type(code) is not SimplexCode or not code.centred or head.bias is not None:
        return None
    if kind not in (TiledOrientation, CanonicalOrientation) or not isinstance(scale, float):
        return None
    used = head.in_features if kind is TiledOrientation else code.columns
    return code.tasks.sizes, scale, used
