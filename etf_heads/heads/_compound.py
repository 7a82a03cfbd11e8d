"""The head of several tasks that share their features."""

from __future__ import annotations

import torch

from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.codes import CrossTask, SimplexCode
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.heads._fixed import FixedHead
from etf_heads.orientation import OrientationSpec


class CompoundETFHead(FixedHead):
    r"""Classifiers of several tasks, each a simplex ETF, fixed and mutually orthogonal.

    "Neural Collapse in Multi-Task Learning": where the tasks label the same samples and labels
    are balanced, each task's class vectors end as a simplex ETF, the tasks' frames are mutually
    orthogonal, and features are the sum of their tasks' class vectors. With the tasks' simplex
    codes :math:`C_t` in blocks,

    .. math:: W = s\, \mathrm{diag}(C_1, \dots, C_T)\, U^\top .

    Args:
        in_features: d. At least :math:`\sum K_t - T` for orthogonal tasks; at least
            :math:`\max K_t - 1` for independent ones.
        tasks: number of classes by task name, or in order.
        bias: whether to learn a bias a class. A balanced problem needs none.
        cross_task: "orthogonal", or "independent" for tasks with samples of their own
            (multi-source), which may share dimensions. Independent tasks are laid around the
            dimensions in a ring, and so are orthogonal as far as there is room.
        orientation: as in :class:`ETFHead`; one for all tasks. A given one has
            :math:`\sum K_t` or :math:`\sum K_t - T` columns (fewer for independent tasks).
        scale: s, the length of the class vectors.
        learn_scale: learn s (one number for all tasks), from there.
        feature_norm: "batch", "layer", "unit", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``.

    Shape:
        features (..., d) to one tensor of logits (..., K_t) a task: in a dict when tasks have
        names, in a tuple otherwise.

    Raises:
        ValueError: if the tasks do not fit into d dimensions, a task has fewer than two classes,
            or an option is not one of those named.

    Example:
        >>> head = CompoundETFHead(128, {"left": 10, "right": 10})
        >>> {name: tuple(z.shape) for name, z in head(torch.randn(8, 128)).items()}
        {'left': (8, 10), 'right': (8, 10)}
    """

    def __init__(
        self,
        in_features: int,
        tasks: TaskSpec | Tasks,
        bias: bool = False,
        *,
        cross_task: CrossTask = "orthogonal",
        orientation: OrientationSpec | None = None,
        scale: float = 1.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            SimplexCode(tasks, cross_task=cross_task),
            orientation,
            bias,
            scale=scale,
            learn_scale=learn_scale,
            feature_norm=feature_norm,
            device=device,
            dtype=dtype,
        )
