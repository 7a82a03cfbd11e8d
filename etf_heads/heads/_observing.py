"""The base class of heads that follow the running class means: the protocol of observing."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import Labels
from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads._tracing import call_recorded
from etf_heads.heads._base import Head
from etf_heads.heads._feature_norm import normalised
from etf_heads.heads._running_means import (
    RunningClassMeans,
    class_sums_of_all,
)


class ObservingHead(Head):
    """A head whose class vectors are computed from running class means.

    Subclasses say how: :meth:`_derive` makes the geometry of centred class means, :meth:`_keep`
    stores it, :meth:`_scores_with` uses it.

    Args:
        in_features: d.
        tasks_or_classes: number of classes of the one task, or class counts of several by name
            or in order. Logits come as a tensor, a dict or a tuple, to match.
        decay: see :class:`RunningClassMeans`.
        gradient: whether the loss also moves features through the class means of their batch.
        update_every: derive the geometry on the first and every n-th batch observed after it;
            the means take in every batch.
        options: as in :class:`Head`.
    """

    def __init__(
        self,
        in_features: int,
        tasks_or_classes: TaskSpec | Tasks | int,
        *,
        decay: float,
        gradient: bool,
        update_every: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        tasks = Tasks.parse(tasks_or_classes, "tasks_or_classes")
        super().__init__(in_features, tasks, device=device, dtype=dtype, **options)
        self.gradient = bool(gradient)
        self.update_every = positive_int(update_every, "update_every")
        self.running = RunningClassMeans(self.tasks, in_features, decay, device=device, dtype=dtype)

    def forward(
        self, features: Tensor, labels: Labels | None = None
    ) -> Tensor | dict[str, Tensor] | tuple[Tensor, ...]:
        """Logits: (..., d) -> (..., K_t), one tensor a task.

        Args:
            features: (..., d).
            labels: in training mode, the batch is observed before the logits are made, so that
                one call is a training step's. In eval mode they are ignored.
        """
        if (recorded := call_recorded(self, features, labels)) is not None:
            return recorded
        features = self.prepare(features)
        derived = None
        if labels is not None and self.training:
            with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
                derived = self._observe(features, labels)
        scores = self.scores(features) if derived is None else self._scores_with(features, derived)
        return self.tasks.split(self._finish(scores))

    @torch.inference_mode(False)  # what is kept has to serve in training
    @torch.no_grad()
    def observe(self, features: Tensor, labels: Labels) -> None:
        """Take a batch into the running class means, in training and in eval mode.

        With torch.distributed initialised every process calls this together, with a batch of
        its own (of any size, none included), and all get the means over all batches.

        Args:
            features: (..., d), as :meth:`forward` takes them.
            labels: integers of shape (...); for several tasks one tensor a task, by name or in
                order.

        Raises:
            ValueError: if labels or features are not as above, or not finite, or out of range;
                nothing is taken in then. Every process gets one, whichever has that batch.
        """
        self._check_size(features)
        if self.norm is not None:
            # A copy: a batch normalisation is not to count a batch that forward sees as well.
            features = normalised(copy.deepcopy(self.norm), features)
        self._observe(features, labels)

    def reset_parameters(self) -> None:
        """Set what is learned to its start, and forget what was observed."""
        super().reset_parameters()
        self.running.reset_parameters()

    @property
    def decay(self) -> float:
        """What each batch leaves of the weight of older samples."""
        return self.running.decay

    @property
    def tasks_or_classes(self) -> Tasks:
        """The tasks, by the name of the constructor's argument."""
        return self.tasks

    # Its checks look at values: under torch.compile, one break in the graph instead of many.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _observe(self, features: Tensor, labels: Labels) -> Tensor | None:
        """Take a batch in; the geometry derived from it, where one was due."""
        if not self.gradient:
            features = features.detach()
        means = self.running.update(*class_sums_of_all(features, labels, self.tasks))
        if self.update_every > 1 and (int(self.running.updates) - 1) % self.update_every:
            return None
        derived = self._derive(self.running.centred(means))
        self._keep(derived.detach())
        return derived

    def _derive(self, centred: Tensor) -> Tensor:
        raise NotImplementedError

    def _keep(self, derived: Tensor) -> None:
        raise NotImplementedError

    def _scores_with(self, features: Tensor, derived: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return f"{super().extra_repr()}, gradient={self.gradient}, update_every={self.update_every}"
