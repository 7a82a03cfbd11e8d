"""Neural collapse of several tasks that label the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import Labels, check_labels
from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.collapse import _frames as frames
from etf_heads.collapse._decisions import NearestCentreDisagreement, decisions_of_sample
from etf_heads.collapse._labels import (
    check_features,
    strides,
    task_labels,
    tuple_keys,
)
from etf_heads.collapse._metric import CollapseMetric, Covariance
from etf_heads.collapse._naming import with_mean_over_tasks
from etf_heads.collapse._single import require_two_groups, variability
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._vectors import Biases, Weights, class_vectors

TaskWeights = Mapping[str, float] | Sequence[float]


class MultiTaskCollapse(CollapseMetric):
    r"""Single-source multi-task neural collapse, S_NC1 to S_NC5, in one pass over the data.

    "Neural Collapse in Multi-Task Learning", for T tasks that all label every sample. Groups g
    are the label tuples (k_1, ..., k_T) that occur in the data, found as they come. With their
    mean features μ_g and the plain average μ_G of these, Σ_W the covariance of samples about
    their tuple's mean, Σ_B that of the tuple means about μ_G, w^t_k the class vectors of task t
    less their mean within the task, and a tilde for unit length:

    ====================  =======================================================================
    ``s_nc1``             tr(Σ_W Σ_B⁺)/G; only with ``covariance="full"``
    ``s_nc1_ratio``       tr Σ_W / tr Σ_B
    ``s_nc2_norms``       std/mean of the lengths of w^t_k over k
    ``s_nc2_angles``      mean over k != j of \|⟨w̃^t_k, w̃^t_j⟩ + 1/(K_t-1)\|
    ``s_nc3``             mean over class vectors of different tasks of \|⟨w̃^t_k, w̃^s_j⟩\|; absent
                          when there is one task
    ``s_nc4``             mean over g of ‖h̃_g - (the unit vector along Σ_t w^t_{k_t})‖, h̃_g the
                          unit vector along μ_g - μ_G
    ``s_nc4_weighted``    the same with Σ_t √(c_t K_t) w^t_{k_t}, which the optimum of the
                          unconstrained feature model obeys for any K_t and task weights c_t; equal
                          to ``s_nc4`` when these are the same for all tasks
    ====================  =======================================================================

    S_NC2 is given for each task, as ``s_nc2_norms/left``, and as the mean over tasks, under the
    bare name. All are 0 under full collapse. S_NC5, the share of samples where the classifier
    does not decide for the nearest class centre, needs the final centres and so a second pass:
    see :meth:`decisions`. Or a ``reservoir`` keeps so many samples, and ``compute`` adds
    ``s_nc5`` of these.

    When all tuple means coincide the quotients are infinite; a measure of zero vectors is nan.

    Args:
        num_features: d.
        tasks: class counts by task name, or in order. Up to 2^62 label tuples are possible (40
            binary attributes, say); memory grows with those that occur.
        covariance: "full" keeps a (d, d) scatter, which ``s_nc1`` needs; "trace" costs O(d) a
            sample instead of O(d²).
        task_weights: c_t, the weight of each task in the training loss; all 1 when None.
        reservoir: number of samples, drawn uniformly, to keep for ``s_nc5``; none by default.
        seed: of the draw.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> from etf_heads.geometry import compound_etf
        >>> tasks = {"digit": 4, "parity": 2}
        >>> etf = compound_etf(tasks)
        >>> digit, parity = torch.cartesian_prod(torch.arange(4), torch.arange(2)).T
        >>> measure = MultiTaskCollapse(num_features=6, tasks=tasks)
        >>> measure.update(etf[:4][digit] + etf[4:][parity], {"digit": digit, "parity": parity})
        >>> for name, value in measure.compute(etf).items():
        ...     print(f"{name:20} {abs(value):.3f}")
        s_nc1                0.000
        s_nc1_ratio          0.000
        s_nc2_norms/digit    0.000
        s_nc2_angles/digit   0.000
        s_nc2_norms/parity   0.000
        s_nc2_angles/parity  0.000
        s_nc2_norms          0.000
        s_nc2_angles         0.000
        s_nc3                0.000
        s_nc4                0.000
        s_nc4_weighted       0.170
    """

    def __init__(
        self,
        num_features: int,
        tasks: TaskSpec | Tasks,
        *,
        covariance: Covariance = "full",
        task_weights: TaskWeights | None = None,
        reservoir: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_features, covariance=covariance, reservoir=reservoir, seed=seed, **kwargs
        )
        self.tasks = Tasks.parse(tasks)
        self.task_weights = _positive_weights(task_weights, self.tasks)
        strides(self.tasks)  # refuses more label tuples than can be numbered

    def update(self, features: Tensor, labels: Labels) -> None:
        """Take in a batch.

        Args:
            features: (B, d), any floating dtype, finite.
            labels: (B, T) integers, or one (B,) tensor for each task, by name or in order.
        """
        check_features(features, self.num_features)
        labels = check_labels(labels, self.tasks, (len(features),))
        self._add_batch(features, tuple_keys(labels, self.tasks))

    def compute(
        self, weight: Weights | None = None, bias: Biases | None = None
    ) -> dict[str, float]:
        """The measures by name.

        Args:
            weight: (sum K_t, d) class vectors of all tasks below each other; or (K_t, d) for
                each task, by name or in order; or modules that have them as ``weight``. None
                leaves out the measures that need them.
            bias: (sum K_t,), or one (K_t,) a task, on which ``s_nc5`` alone depends; the
                modules' own, or none, when None.

        Raises:
            ValueError: before there is data of two label tuples, or for a weight of the wrong
                shape.
        """
        vectors = None
        if weight is not None:
            vectors = class_vectors(weight, self.tasks, self.num_features, self.device)
        statistics = self._statistics()
        values = multi_task_collapse(
            statistics, self.tasks, vectors, task_weights=self.task_weights
        )
        if self.reservoir and weight is not None:
            sample = self._sample()
            centres = per_task_statistics(statistics, self.tasks)
            metric = NearestCentreDisagreement(
                "s_nc5", self.tasks, centres, weight, bias, sync_on_compute=False
            )
            labels = task_labels(sample.labels, self.tasks)
            values |= decisions_of_sample(metric, sample.features, labels)
        return values

    def decisions(
        self, weight: Weights | None = None, bias: Biases | None = None
    ) -> NearestCentreDisagreement:
        """S_NC5 as a metric of its own, to be updated in a second pass with the centres of now.

        The centre of a class is the mean feature of all samples that have its label.
        """
        statistics = per_task_statistics(self.class_statistics(), self.tasks)
        return NearestCentreDisagreement(
            "s_nc5", self.tasks, statistics, weight, bias, process_group=self.process_group
        )


def multi_task_collapse(
    statistics: ClassStatistics,
    tasks: TaskSpec | Tasks,
    weights: Sequence[Tensor] | None = None,
    *,
    task_weights: Sequence[float] | None = None,
) -> dict[str, float]:
    """The measures of :class:`MultiTaskCollapse` as a function of statistics.

    Args:
        statistics: keys number the label tuples, the last task varying fastest.
        tasks: class counts by task name, or in order.
        weights: one (K_t, d) float64 tensor of class vectors a task.
        task_weights: c_t of each task, all 1 when None.

    Raises:
        ValueError: if fewer than two label tuples were seen.
    """
    tasks = Tasks.parse(tasks)
    require_two_groups(statistics, " (tuple)")
    values = variability(statistics, "s_nc1")
    if weights is None:
        return values
    vectors = tuple(frames.centred(weight) for weight in weights)
    each = [
        {"s_nc2_norms": frames.norm_variation(v), "s_nc2_angles": frames.angle_deviation(v)}
        for v in vectors
    ]
    values |= with_mean_over_tasks(each, tasks)
    if len(tasks) > 1:
        values["s_nc3"] = frames.cross_coherence(vectors)
    sums = zip(task_weights or [1.0] * len(tasks), tasks.sizes, strict=True)
    balance = [(c * size) ** 0.5 for c, size in sums]
    labels = task_labels(statistics.keys, tasks)
    values["s_nc4"] = _alignment(statistics, vectors, labels, [1.0] * len(tasks))
    values["s_nc4_weighted"] = _alignment(statistics, vectors, labels, balance)
    return values


def per_task_statistics(
    statistics: ClassStatistics, tasks: TaskSpec | Tasks
) -> tuple[ClassStatistics, ...]:
    """Statistics of each task's classes without scatter, from those of label tuples."""
    tasks = Tasks.parse(tasks)
    labels = task_labels(statistics.keys, tasks)
    traces_only = replace(statistics, scatter=None)
    return tuple(traces_only.regrouped(labels[:, t]) for t in range(len(tasks)))


def _alignment(
    statistics: ClassStatistics,
    vectors: Sequence[Tensor],
    labels: Tensor,
    balance: Sequence[float],
) -> float:
    """S_NC4: mean distance of the unit centred tuple means to the unit sums of class vectors."""
    sums = torch.zeros_like(statistics.means)
    for t, (own, factor) in enumerate(zip(vectors, balance, strict=True)):
        sums += factor * own[labels[:, t]]
    gaps = frames.unit_rows(statistics.centred_means) - frames.unit_rows(sums)
    return float(gaps.norm(dim=1).mean())


def _positive_weights(task_weights: TaskWeights | None, tasks: Tasks) -> tuple[float, ...]:
    if task_weights is None:
        return (1.0,) * len(tasks)
    weights = tuple(float(c) for c in tasks.unpack(task_weights, "task_weights"))
    if not all(0 < c < float("inf") for c in weights):
        raise ValueError(f"task_weights must be positive and finite, got {list(weights)}")
    return weights
