"""Agreement of a classifier with the nearest class centre: a second pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import NO_LABEL, Labels, check_labels
from etf_heads._tasks import Tasks
from etf_heads.collapse._classifier import Classifier
from etf_heads.collapse._labels import (
    MultiSourceFeatures,
    check_features,
    check_sources,
)
from etf_heads.collapse._metric import NOT_FINITE
from etf_heads.collapse._naming import with_mean_over_tasks
from etf_heads.collapse._plot import PlottedMetric
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._vectors import Biases, Weights


class Disagreement(PlottedMetric):
    """Frozen centres and classifier, and counts a task; subclasses say what a batch is."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    samples: Tensor
    centre_weight: Tensor
    centre_bias: Tensor

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
        weight_of_centres, bias_of_centres = _nearest_centre_as_linear(statistics, tasks)
        self.register_buffer("centre_weight", weight_of_centres, persistent=False)
        self.register_buffer("centre_bias", bias_of_centres, persistent=False)
        self._counts = {"centre_accuracy": "centre_hits"}
        self._classifier = None
        if weight is not None:
            self._classifier = Classifier(weight, bias, tasks, self.num_features, device)
            classifier = {"classifier_accuracy": "classifier_hits"}
            self._counts = {name: "disagreements"} | self._counts | classifier
        for count in ("samples", *self._counts.values()):
            zeros = torch.zeros(len(tasks), dtype=torch.int64)
            self.add_state(count, default=zeros, dist_reduce_fx="sum")
        self.to(device)

    def _finite(self, features: Tensor) -> Tensor:
        features = features.detach().to(self.device)
        if not features.isfinite().all():
            raise ValueError(NOT_FINITE)
        return features

    def _count(self, features: Tensor, labels: Sequence[Tensor], wanted: Sequence[int]) -> None:
        """Count (B, d) features with (B,) labels of each wanted task; those without none."""
        given: Sequence[Tensor | None] = [None] * len(wanted)
        if self._classifier is not None:
            given = self._classifier.logits(features, wanted)
        exact = features.to(torch.float64)
        for task, own, logits in zip(wanted, labels, given, strict=True):
            rows = self.tasks.slices[task]
            near = torch.addmm(self.centre_bias[rows], exact, self.centre_weight[rows].T)
            centre, present = near.argmax(1), own != NO_LABEL
            self._add("samples", task, present)
            self._add("centre_hits", task, centre == own)
            if logits is not None:
                decided = logits.argmax(1)
                self._add("classifier_hits", task, decided == own)
                self._add("disagreements", task, (decided != centre) & present)

    def _add(self, count: str, task: int, found: Tensor) -> None:
        total = getattr(self, count).clone()  # states may be shared with a copy in torchmetrics
        total[task] += found.sum()
        setattr(self, count, total)

    def compute(self) -> dict[str, float]:
        """Shares by name; with several tasks for each (``s_nc5/left``) and their mean.

        A task's shares are those of the samples that have a label of it.

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


class NearestCentreDisagreement(Disagreement):
    r"""Share of samples on which a classifier and the nearest class centre disagree.

    NC4 of Papyan, Han and Donoho (PNAS 2020), S_NC5 of multi-task neural collapse. Centres and
    classifier are those of the moment that this metric was made, by a measure's ``decisions``; a
    class that had not been seen has no centre. A sample that has a label of a task counts for it
    when :math:`\arg\max_k \langle w_k, h \rangle + b_k \neq \arg\min_k \|h - \mu_k\|`; ties go to
    the smaller label.

    ``compute`` also gives the accuracies ``centre_accuracy`` and ``classifier_accuracy``; the
    first alone when there are no class vectors.

    Args:
        name: of the share among the values.
        tasks: class counts of the tasks that label every sample.
        statistics: of each task's classes.
        weight: class vectors, or modules, which decide by their own forward in evaluation mode
            (normalisation of features included), as in the measure's ``decisions``.
        bias: (sum K_t,) or one (K_t,) a task. None: modules decide by their own forward, tensors
            without a bias.
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
        columns = labels.to(self.device).unbind(1)
        self._count(self._finite(features), columns, range(len(self.tasks)))


class MultiSourceDisagreement(Disagreement):
    """:class:`NearestCentreDisagreement` of tasks with samples of their own (M_NC4)."""

    def update(self, features: MultiSourceFeatures, labels: MultiSourceFeatures) -> None:
        """Take in a batch of some or all tasks, as in ``MultiSourceCollapse.update``."""
        sources = check_sources(features, labels, self.tasks, self.num_features)
        finite = [(task, self._finite(own), target) for task, own, target in sources]
        for task, own, target in finite:
            self._count(own, [target.to(self.device)], [task])


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
