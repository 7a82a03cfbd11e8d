"""The head of several tasks whose labels are correlated, or imbalanced."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from etf_heads._precision import check_dtype
from etf_heads._tasks import Tasks, TaskSpec, TaskWeights
from etf_heads.codes import Code, GramCode, SimplexCode
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.heads._fixed import FixedHead
from etf_heads.orientation import OrientationSpec
from etf_heads.theory import JointCounts, optimal_gram, unresolved_classes

_SHARE = 0.02  # default regularisation, of that at which a balanced task's head would be zero


class CorrelatedETFHead(FixedHead):
    r"""Classifiers of several tasks fixed to the optimal geometry of their joint labels.

    "Neural Collapse in Multi-Task Learning" (Theorem 5.1) shows that two correlated binary tasks
    bend towards each other. :func:`~etf_heads.theory.optimal_gram` computes the optimal Gram
    matrix of the class vectors for any number of tasks and classes and any joint counts, class
    imbalance included; this head has class vectors with that Gram matrix. When all label tuples
    are equally frequent it *is* the :class:`CompoundETFHead`.

    Of the regularisation, only :math:`\lambda_W \lambda_H N` enters the angles. When the λ's are
    not given it is small: 2% of the strength at which a balanced task's head would vanish.

    Args:
        in_features: d, at least the rank of the optimal Gram matrix, which is at most
            :math:`\sum K_t - T`.
        tasks: number of classes by task name, or in order.
        label_counts: samples by label tuple, shape (K_1, ..., K_T), or a
            :class:`~etf_heads.theory.JointCounts`. See also :meth:`from_labels`.
        bias: whether to learn a bias a class. Imbalanced classes may want one.
        lambda_w: regulariser of the class vectors beside the mean loss; with ``lambda_h``.
        lambda_h: regulariser of the features; with ``lambda_w``.
        task_weights: weights of the tasks' losses, by task name or in order.
        unit_norm: give all class vectors length s, and so use the optimum's angles only;
            otherwise their lengths are the optimum's, with s their root mean square.
        orientation: as in :class:`ETFHead`.
        scale: s.
        learn_scale: learn s (one number), from there.
        feature_norm: "batch", "layer", "unit", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``.

    Note:
        The optimum is that of the training distribution. Where labels nearly always agree, class
        vectors of different tasks nearly merge, and samples whose labels differ are harder to
        classify: on two-digit images the compound head was better on those.

    Attributes:
        duality_gap: proven relative distance of the geometry's objective to the optimum.

    Shape:
        as :class:`CompoundETFHead`.

    Raises:
        ValueError: if counts do not match the tasks, a class has no sample, the geometry does not
            fit into d dimensions, or (with ``unit_norm``) the optimum gives up a class: its
            vector is zero, and weaker regularisation is needed.

    Example:
        >>> counts = torch.tensor([[450, 50], [50, 450]])  # labels agree in 9 of 10 samples
        >>> head = CorrelatedETFHead(64, {"smiling": 2, "happy": 2}, counts)
        >>> round(float(head.weight[0] @ head.weight[2]), 2)
        0.59
    """

    def __init__(
        self,
        in_features: int,
        tasks: TaskSpec | Tasks,
        label_counts: Tensor | JointCounts,
        bias: bool = False,
        *,
        lambda_w: float | None = None,
        lambda_h: float | None = None,
        task_weights: TaskWeights | None = None,
        unit_norm: bool = True,
        orientation: OrientationSpec | None = None,
        scale: float = 1.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_dtype(dtype)
        counts = _matching(label_counts, Tasks.parse(tasks))
        duality_gap = 0.0
        code: Code = SimplexCode(counts.tasks)
        if not (unit_norm and _uniform(counts)):
            lambdas = _lambdas(counts, task_weights, lambda_w, lambda_h)
            geometry = optimal_gram(counts, *lambdas, task_weights)
            unresolved = unresolved_classes(geometry, *lambdas, task_weights)
            gram = _normalised(geometry.gram, unresolved, counts.tasks, unit_norm=unit_norm).cpu()
            code = GramCode(gram, counts.tasks).to(device or torch.get_default_device(), dtype)
            duality_gap = geometry.duality_gap
        super().__init__(
            in_features,
            code,
            orientation,
            bias,
            scale=scale,
            learn_scale=learn_scale,
            feature_norm=feature_norm,
            device=device,
            dtype=dtype,
        )
        self.duality_gap = duality_gap

    @classmethod
    def from_arguments(cls, tasks: Tasks | None = None, **arguments: Any) -> Self:
        """A head from its parts, without solving for them."""
        duality_gap = float(arguments.pop("duality_gap"))
        head = super().from_arguments(tasks, **arguments)
        head.duality_gap = duality_gap
        return head

    def arguments(self) -> dict[str, Any]:
        """The parts, the options, and what was proved of them."""
        return super().arguments() | {"duality_gap": self.duality_gap}

    @classmethod
    def from_labels(
        cls,
        in_features: int,
        tasks: TaskSpec | Tasks,
        labels: Tensor,
        bias: bool = False,
        **options: object,
    ) -> CorrelatedETFHead:
        """The head of the label tuples that a data set has.

        Args:
            in_features: d.
            tasks: number of classes by task name, or in order.
            labels: integers of shape (N, T), the labels of every sample.
            bias: as in the constructor, like all further options.
            options: see the class.

        Example:
            >>> labels = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0], [0, 0], [1, 1]])
            >>> CorrelatedETFHead.from_labels(8, [2, 2], labels).out_features
            4
        """
        counts = JointCounts.from_labels(labels, tasks)
        return cls(in_features, tasks, counts, bias, **options)  # type: ignore[arg-type]


def _matching(label_counts: Tensor | JointCounts, tasks: Tasks) -> JointCounts:
    counts = JointCounts.parse(label_counts)
    if counts.tasks.sizes != tasks.sizes:
        raise ValueError(
            f"label_counts is of tasks with {list(counts.tasks.sizes)} classes, tasks has "
            f"{list(tasks.sizes)}"
        )
    return JointCounts(tasks, counts.labels, counts.counts)


def _uniform(counts: JointCounts) -> bool:
    """Whether all possible label tuples are equally frequent."""
    most, least = float(counts.counts.max()), float(counts.counts.min())
    return len(counts.counts) == math.prod(counts.tasks.sizes) and most - least <= 1e-12 * most


def _lambdas(
    counts: JointCounts,
    task_weights: TaskWeights | None,
    lambda_w: float | None,
    lambda_h: float | None,
) -> tuple[float, float]:
    if lambda_w is not None and lambda_h is not None:
        return lambda_w, lambda_h
    if lambda_w is not None or lambda_h is not None:
        raise ValueError("lambda_w and lambda_h go together: give both, or neither")
    tasks = counts.tasks
    weights = tasks.weights(task_weights)
    # A balanced task's head is zero where 2 sqrt(λ_W λ_H N) reaches sqrt(c / K) (Theorem 3.1).
    strength = _SHARE * min(math.sqrt(c / k) for c, k in zip(weights, tasks.sizes, strict=True))
    both = strength / (2 * math.sqrt(counts.total))
    return both, both


def _normalised(gram: Tensor, unresolved: Tensor, tasks: Tasks, *, unit_norm: bool) -> Tensor:
    squares = gram.diagonal()
    if float(squares.max()) == 0:
        raise ValueError(
            "the optimal head is zero at this regularisation: give smaller lambda_w * lambda_h"
        )
    if not unit_norm:
        return gram / squares.mean()
    for name, rows in zip(tasks.labels, tasks.slices, strict=True):
        given_up = unresolved[rows].nonzero().flatten().tolist()
        if given_up:
            raise ValueError(
                f"at this regularisation the optimum gives up classes {given_up} of task {name!r} "
                "(their class vectors are zero, as far as its certificate shows): give smaller "
                "lambda_w * lambda_h, or unit_norm=False"
            )
    lengths = squares.sqrt()
    return gram / (lengths[:, None] * lengths)
