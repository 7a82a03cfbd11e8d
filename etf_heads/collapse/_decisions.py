"""Whether a classifier decides as the nearest class centre does: a second pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from etf_heads._tasks import Tasks
from etf_heads.collapse._labels import MultiTaskLabels, check_features, check_labels
from etf_heads.collapse._naming import with_mean_over_tasks
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._vectors import Biases, Weights, class_biases, class_vectors


class NearestCentreDisagreement(Metric):
    r"""Share of samples on which a classifier and the nearest class centre disagree.

    NC4 of Papyan et al., S_NC5 of multi-task neural collapse. Centres and classifier are those
    of the moment that this metric was made (by a measure's ``decisions``); a class that had not
    been seen has no centre. Every task with :math:`\arg\max_k \langle w_k, h \rangle + b_k \neq
    \arg\min_k \|h - \mu_k\|` counts; ties go to the smaller label.

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

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    samples: Tensor
    disagreements: Tensor

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
            own_vectors = class_vectors(weight, tasks, self.num_features, device)
            own_biases = class_biases(bias, weight, tasks, device)
            deciders["classifier"] = (torch.cat(own_vectors), torch.cat(own_biases))
        for decider, (vectors, biases) in deciders.items():
            self.register_buffer(f"{decider}_weight", vectors, persistent=False)
            self.register_buffer(f"{decider}_bias", biases, persistent=False)
        self._deciders = tuple(deciders)
        zeros = torch.zeros(len(tasks), dtype=torch.int64)
        for count in ("samples", "disagreements", *(f"{d}_hits" for d in deciders)):
            self.add_state(count, default=zeros.clone(), dist_reduce_fx="sum")
        self.to(device)

    def update(self, features: Tensor, labels: MultiTaskLabels) -> None:
        """Take in a batch of (B, d) features and its labels, as in the measure's ``update``."""
        check_features(features, self.num_features)
        labels = check_labels(labels, self.tasks, len(features)).to(self.device)
        features = features.detach().to(self.device).to(torch.float64)
        if not features.isfinite().all():
            raise ValueError("features have NaN or infinite entries: this batch was not taken in")
        decided = {name: self._decide(name, features) for name in self._deciders}
        self.samples = self.samples + len(features)
        for name, decision in decided.items():
            hits = getattr(self, f"{name}_hits")
            setattr(self, f"{name}_hits", hits + (decision == labels).sum(0))
        if "classifier" in decided:
            differ = decided["classifier"] != decided["centre"]
            self.disagreements = self.disagreements + differ.sum(0)

    def _decide(self, decider: str, features: Tensor) -> Tensor:
        """(B, d) -> (B, T) class that a decider chooses in each task."""
        weight, bias = getattr(self, f"{decider}_weight"), getattr(self, f"{decider}_bias")
        scores = torch.addmm(bias, features, weight.T)
        return torch.stack([scores[:, rows].argmax(1) for rows in self.tasks.slices], dim=1)

    def compute(self) -> dict[str, float]:
        """Shares by name; with several tasks for each (``s_nc5/left``) and their mean.

        Raises:
            ValueError: before there is data.
        """
        if not self.samples.all():
            raise ValueError(f"{type(self).__name__} has seen no data: call update first")
        counts = {f"{name}_accuracy": getattr(self, f"{name}_hits") for name in self._deciders}
        if "classifier" in self._deciders:
            counts = {self.name: self.disagreements} | counts
        shares = {name: count.double() / self.samples for name, count in counts.items()}
        each = [
            {name: float(share[t]) for name, share in shares.items()}
            for t in range(len(self.tasks))
        ]
        return each[0] if len(self.tasks) == 1 else with_mean_over_tasks(each, self.tasks)


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
