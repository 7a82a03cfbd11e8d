"""Neural collapse of several tasks that label the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import NO_LABEL, Labels, check_labels
from etf_heads._tasks import Tasks, TaskSpec, TaskWeights
from etf_heads.collapse import _frames as frames
from etf_heads.collapse._classification import ClassificationCollapse
from etf_heads.collapse._labels import (
    check_features,
    strides,
    task_labels,
    tuple_keys,
)
from etf_heads.collapse._metric import Covariance, check_finite
from etf_heads.collapse._naming import with_mean_over_tasks
from etf_heads.collapse._single import require_two_groups, variability
from etf_heads.collapse._statistics import ClassStatistics


class MultiTaskCollapse(ClassificationCollapse):
    r"""Single-source multi-task neural collapse, S_NC1 to S_NC5, in one pass over the data.

    "Neural Collapse in Multi-Task Learning", for T tasks that label the same samples. Groups g
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

    Class vectors are centred within a task, μ_G is the mean of the tuple means, not of the samples,
    and standard deviations divide by K_t: code of others may differ in any of these.

    A sample may lack labels of some tasks (-100). Only samples with labels of all tasks have a
    tuple, and enter S_NC1 and S_NC4; S_NC5 and its class centres are, for each task, those of all
    samples with a label of it.

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

    disagreement_name = "s_nc5"

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
        parsed = Tasks.parse(tasks)
        super().__init__(
            num_features,
            label_columns=len(parsed),
            covariance=covariance,
            trace_sources=1,  # the classes of samples without a label of some task
            reservoir=reservoir,
            seed=seed,
            **kwargs,
        )
        self.tasks = parsed
        self.task_weights = parsed.weights(task_weights)
        strides(parsed)  # refuses more label tuples than can be numbered

    def update(self, features: Tensor, labels: Labels) -> None:
        """Take in a batch.

        Args:
            features: (B, d), any floating dtype, finite.
            labels: (B, T) integers, or one (B,) tensor for each task, by name or in order; -100
                for none.
        """
        check_features(features, self.num_features)
        check_finite(features)
        found = check_labels(labels, self.tasks, (len(features),))
        features, found = features.to(self.device), found.to(self.device)
        present = found != NO_LABEL
        complete = present.all(1)
        if bool(complete.all()):
            self._add_batch(features, tuple_keys(found, self.tasks))
            self._draw_samples(features, found)
            return
        self._add_batch(features[complete], tuple_keys(found[complete], self.tasks))
        for task, rows in enumerate(self.tasks.slices):
            partial = present[:, task] & ~complete
            self._add_batch(features[partial], found[partial, task] + rows.start, source=1)
        self._draw_samples(features[present.any(1)], found[present.any(1)])

    def _values(self, vectors: Sequence[Tensor] | None) -> dict[str, float]:
        self._take_in(1)
        partial = len(self._rows(1).keys)
        statistics = self._statistics(what=" with labels of all tasks" if partial else "")
        return multi_task_collapse(statistics, self.tasks, vectors, task_weights=self.task_weights)

    def _centres(self) -> Sequence[ClassStatistics]:
        for source in (0, 1):
            self._take_in(source)
        complete = per_task_statistics(
            replace(self._rows(0), scatter=None).statistics(), self.tasks
        )
        partial = self._rows(1).statistics()
        merged = []
        for own, rows, name in zip(complete, self.tasks.slices, self.tasks.labels, strict=True):
            kept = (partial.keys >= rows.start) & (partial.keys < rows.stop)
            rest = partial.of_rows(kept)
            merged.append(ClassStatistics.merge([own, replace(rest, keys=rest.keys - rows.start)]))
            if not len(merged[-1].keys):
                raise ValueError(
                    f"{type(self).__name__} has seen no data of task {name!r}: call update first"
                )
        return merged

    def _kept(self) -> tuple[Tensor, Tensor]:
        sample = self._sample()
        return sample.features, sample.labels


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
