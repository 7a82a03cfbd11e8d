"""Neural collapse of several tasks with samples of their own and a shared feature space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.collapse import _frames as frames
from etf_heads.collapse._classification import ClassificationCollapse
from etf_heads.collapse._decisions import MultiSourceDisagreement
from etf_heads.collapse._labels import MultiSourceFeatures, check_sources
from etf_heads.collapse._metric import Covariance, check_finite
from etf_heads.collapse._naming import with_mean_over_tasks
from etf_heads.collapse._single import require_two_groups, variability
from etf_heads.collapse._statistics import ClassStatistics


class MultiSourceCollapse(ClassificationCollapse):
    r"""Multi-source multi-task neural collapse, M_NC1 to M_NC4, in one pass over the data.

    "Neural Collapse in Multi-Task Learning", for tasks that each label samples of their own, such
    as several data sets on one backbone. Every task is measured alone, on its own samples; with
    the notation of :class:`SingleTaskCollapse`:

    ======================  =====================================================================
    ``m_nc1``               tr(Σ_W Σ_B⁺)/K; only with ``covariance="full"``
    ``m_nc1_ratio``         tr Σ_W / tr Σ_B
    ``m_nc2_norms_means``   std/mean of the lengths of the centred class means
    ``m_nc2_angles_means``  mean over k != j of \|⟨μ̃_k, μ̃_j⟩ + 1/(K-1)\|
    ``m_nc2_*_weights``     the same two of the centred class vectors
    ``m_nc3``               mean over k of ‖μ̃_k - w̃_k‖², w centred over the classes seen
    ======================  =====================================================================

    Each is given for every task, as ``m_nc1/left``, and as the mean over tasks, under the bare
    name. All are 0 under full collapse. Published code of single tasks takes class vectors as
    they are, the mean of the samples for that of the class means, and K - 1 for K in the
    standard deviation: ``SingleTaskCollapse(published=True)`` on a task's samples. M_NC4, the
    share of a task's samples where its classifier does not decide for the nearest class mean,
    needs a second pass (:meth:`decisions`), or a ``reservoir`` that keeps so many samples of
    each task.

    Args:
        num_features: d.
        tasks: class counts by task name, or in order.
        covariance: "full" keeps a (d, d) scatter for every task, which ``m_nc1`` needs.
        reservoir: number of samples of each task, drawn uniformly, to keep for ``m_nc4``.
        seed: of the draw.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from etf_heads.geometry import simplex_etf
        >>> tasks = {"left": 4, "right": 3}
        >>> left, right = simplex_etf(4, 5), simplex_etf(3, 5)
        >>> measure = MultiSourceCollapse(num_features=5, tasks=tasks)
        >>> measure.update({"left": left, "right": right},
        ...                {"left": torch.arange(4), "right": torch.arange(3)})
        >>> values = measure.compute({"left": left, "right": right})
        >>> max(values.values()) < 1e-12
        True
    """

    disagreement = MultiSourceDisagreement
    disagreement_name = "m_nc4"

    def __init__(
        self,
        num_features: int,
        tasks: TaskSpec | Tasks,
        *,
        covariance: Covariance = "full",
        reservoir: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        tasks = Tasks.parse(tasks)
        super().__init__(
            num_features,
            covariance=covariance,
            sources=len(tasks),
            reservoir=reservoir,
            seed=seed,
            **kwargs,
        )
        self.tasks = tasks

    def update(self, features: MultiSourceFeatures, labels: MultiSourceFeatures) -> None:
        """Take in a batch of some or all tasks.

        Args:
            features: (B_t, d) features of each task by name, or in order; a task without samples
                in this batch is left out (None in a sequence).
            labels: (B_t,) integer labels, in the same way; samples with the label -100 have none
                and are left out.
        """
        sources = check_sources(features, labels, self.tasks, self.num_features)
        for _, own, _ in sources:
            check_finite(own)  # before any task's share of the batch is taken in
        for task, own, target in sources:
            self._add_batch(own, target, task)
            self._draw_samples(own, target, task)

    def _values(self, vectors: Sequence[Tensor] | None) -> dict[str, float]:
        return multi_source_collapse(self._centres(), self.tasks, vectors)

    def _centres(self) -> Sequence[ClassStatistics]:
        return [
            self._statistics(source, f" of task {name!r}")
            for source, name in enumerate(self.tasks.labels)
        ]

    def _kept(self) -> tuple[list[Tensor], list[Tensor]]:
        samples = [self._sample(source) for source in range(self.sources)]
        return [s.features for s in samples], [s.labels for s in samples]


def multi_source_collapse(
    statistics: Sequence[ClassStatistics],
    tasks: TaskSpec | Tasks,
    weights: Sequence[Tensor] | None = None,
) -> dict[str, float]:
    """The measures of :class:`MultiSourceCollapse` as a function of statistics.

    Args:
        statistics: of each task's own samples; keys are its labels.
        tasks: class counts by task name, or in order.
        weights: one (K_t, d) float64 tensor of class vectors a task.

    Raises:
        ValueError: if fewer than two classes of a task were seen.
    """
    tasks = Tasks.parse(tasks)
    each = []
    for t, (own, name) in enumerate(zip(statistics, tasks.labels, strict=True)):
        require_two_groups(own, f" of task {name!r}")
        means = own.centred_means
        values = variability(own, "m_nc1")
        values["m_nc2_norms_means"] = frames.norm_variation(means)
        values["m_nc2_angles_means"] = frames.angle_deviation(means)
        if weights is not None:
            vectors = frames.centred(weights[t])
            values["m_nc2_norms_weights"] = frames.norm_variation(vectors)
            values["m_nc2_angles_weights"] = frames.angle_deviation(vectors)
            seen = frames.centred(weights[t][own.keys])
            values["m_nc3"] = frames.direction_gap(seen, means)
        each.append(values)
    return with_mean_over_tasks(each, tasks)
