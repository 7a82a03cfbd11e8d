"""Whether a classifier decides as the nearest class centre does: a second pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import Labels, check_labels
from etf_heads._tasks import Tasks
from etf_heads.collapse._labels import (
    MultiSourceFeatures,
    check_features,
    check_sources,
)
from etf_heads.collapse._metric import NOT_FINITE
from etf_heads.collapse._naming import with_mean_over_tasks
from etf_heads.collapse._plot import PlottedMetric
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._vectors import Biases, Weights, class_biases, class_vectors


class _Disagreement(PlottedMetric):
    """Frozen centres and classifier, and counts a task; subclasses say what a batch is."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    samples: Tensor

    def __init__(
        self,
        name: str,
        tasks: Tasks,
        statistics: Sequence[ClassStatistics],
        weight: Weights | None = None,
        bias: Biases | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name, self.tasks = name, tasks
        self.num_features = statistics[0].means.shape[1]
        device = statistics[0].means.device
        deciders = {"centre": _nearest_centre_as_linear(statistics, tasks)}
        if weight is not None:
            vectors = class_vectors(weight, tasks, self.num_features, device)
            biases = class_biases(bias, weight, tasks, device)
            deciders["classifier"] = (torch.cat(vectors), torch.cat(biases))
        for decider, (matrix, offset) in deciders.items():
            self.register_buffer(f"{decider}_weight", matrix, persistent=False)
            self.register_buffer(f"{decider}_bias", offset, persistent=False)
        self._counts = {f"{decider}_accuracy": f"{decider}_hits" for decider in deciders}
        if weight is not None:
            self._counts = {name: "disagreements"} | self._counts
        for count in ("samples", *self._counts.values()):
            zeros = torch.zeros(len(tasks), dtype=torch.int64)
            self.add_state(count, default=zeros, dist_reduce_fx="sum")
        self.to(device)

    def _finite(self, features: Tensor) -> Tensor:
        features = features.detach().to(self.device).to(torch.float64)
        if not features.isfinite().all():
            raise ValueError(NOT_FINITE)
        return features

    def _count(self, task: int, features: Tensor, labels: Tensor) -> None:
        centre = self._decide("centre", task, features)
        self._add("samples", task, torch.ones_like(labels))
        self._add("centre_hits", task, centre == labels)
        if "disagreements" in self._counts.values():
            classifier = self._decide("classifier", task, features)
            self._add("classifier_hits", task, classifier == labels)
            self._add("disagreements", task, classifier != centre)

    def _decide(self, decider: str, task: int, features: Tensor) -> Tensor:
        """(B, d) -> (B,) class that a decider chooses."""
        rows = self.tasks.slices[task]
        weight, bias = getattr(self, f"{decider}_weight"), getattr(self, f"{decider}_bias")
        return torch.addmm(bias[rows], features, weight[rows].T).argmax(1)

    def _add(self, count: str, task: int, found: Tensor) -> None:
        total = getattr(self, count).clone()  # states may be shared with a copy in torchmetrics
        total[task] += found.sum()
        setattr(self, count, total)

    def compute(self) -> dict[str, float]:
        """Shares by name; with several tasks for each (``s_nc5/left``) and their mean.

        Raises:
            ValueError: before there is data of every task.
        """
        if not self.samples.all():
            raise ValueError(f"{type(self).__name__} has seen no data: call update first")
        shares = {
            name: getattr(self, count).double() / self.samples
            for name, count in self._counts.items()
        }
        each = [
            {name: float(share[t]) for name, share in shares.items()}
            for t in range(len(self.tasks))
        ]
        return each[0] if len(self.tasks) == 1 else with_mean_over_tasks(each, self.tasks)


class NearestCentreDisagreement(_Disagreement):
    r"""Share of samples on which a classifier and the nearest class centre disagree.

    NC4 of Papyan, Han and Donoho (PNAS 2020), S_NC5 of multi-task neural collapse. Centres and
    classifier are those of the moment that this metric was made, by a measure's ``decisions``; a
    class that had not been seen has no centre. A sample counts for a task when
    :math:`\arg\max_k \langle w_k, h \rangle + b_k \neq \arg\min_k \|h - \mu_k\|`; ties go to the
    smaller label.

    ``compute`` also gives the accuracies ``centre_accuracy`` and ``classifier_accuracy``; the
    first alone when there are no class vectors.

    Args:
        name: of the share among the values.
        tasks: class counts of the tasks that label every sample.
        statistics: of each task's classes.
        weight: class vectors, as in the measure's ``compute``.
        bias: (sum K_t,) or one (K_t,) a task; the modules' own, or none, when None.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> from etf_heads.collapse import SingleTaskCollapse
        >>> features, labels = torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1])
        >>> measure = SingleTaskCollapse(num_features=1, num_classes=2)
        >>> measure.update(features, labels)  # centres are 1 and 5
        >>> second_pass = measure.decisions(torch.tensor([[-1.0], [1.0]]))
        >>> second_pass.update(features, labels)
        >>> second_pass.compute()
        {'nc4': 0.333..., 'centre_accuracy': 1.0, 'classifier_accuracy': 0.666...}
    """

    def update(self, features: Tensor, labels: Labels) -> None:
        """Take in a batch of (B, d) features and its labels, as in the measure's ``update``."""
        check_features(features, self.num_features)
        labels = check_labels(labels, self.tasks, (len(features),))
        features = self._finite(features)
        for task, own in enumerate(labels.to(self.device).T):
            self._count(task, features, own)


class MultiSourceDisagreement(_Disagreement):
    """:class:`NearestCentreDisagreement` of tasks with samples of their own (M_NC4)."""

    def update(self, features: MultiSourceFeatures, labels: MultiSourceFeatures) -> None:
        """Take in a batch of some or all tasks, as in ``MultiSourceCollapse.update``."""
        sources = check_sources(features, labels, self.tasks, self.num_features)
        finite = [(task, self._finite(own), target) for task, own, target in sources]
        for task, own, target in finite:
            self._count(task, own, target.to(self.device))


def decisions_of_sample(metric: _Disagreement, *batch: Any) -> dict[str, float]:
    """Shares of disagreement alone, of one batch that all processes have."""
    metric.update(*batch)
    values = metric.compute()
    return {key: value for key, value in values.items() if key.split("/")[0] == metric.name}


def _nearest_centre_as_linear(
    statistics: Sequence[ClassStatistics], tasks: Tasks
) -> tuple[Tensor, Tensor]:
    """Weight (sum K_t, d) and bias whose largest score in a task is that of the nearest centre.

    Of ‖h - μ‖² = ‖h - o‖² - 2⟨h - o, μ - o⟩ + ‖μ - o‖² the first term is the same for all
    classes; o, the mean of the centres, keeps the others small. Any score beats that of a class
    without a centre, -inf.
    """
    weights, biases = [], []
    for own, size in zip(statistics, tasks.sizes, strict=True):
        centred = own.centred_means
        origin = own.means.mean(0)
        weight = centred.new_zeros(size, centred.shape[1])
        bias = centred.new_full((size,), -torch.inf)
        weight[own.keys] = centred
        bias[own.keys] = -(centred @ origin) - centred.square().sum(1) / 2
        weights.append(weight)
        biases.append(bias)
    return torch.cat(weights), torch.cat(biases)
