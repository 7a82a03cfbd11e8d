"""The base class of heads that follow the running class means, as they observe batches."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import Labels
from etf_heads._tasks import Tasks, TaskSpec
from etf_heads._tracing import call_recorded
from etf_heads.heads._base import Head
from etf_heads.heads._feature_norm import normalised
from etf_heads.heads._running_means import RunningClassMeans
from etf_heads.heads._running_rows import RunningRows


class ObservingHead(Head):
    """A head whose class vectors follow from running class means, which it observes in training.

    Subclasses keep these in :attr:`running`, and take a batch in by :meth:`_observe`.

    Under ``torch.compile`` the observation is one operator, and the whole step one graph
    (``fullgraph=True``). Behind activation checkpointing a batch is observed once, in forward.

    Args:
        in_features: d.
        tasks_or_classes: number of classes of the one task, or class counts of several by name
            or in order. Logits come as a tensor, a dict or a tuple, to match.
        options: as in :class:`Head`.

    Attributes:
        gradient: whether the loss also moves features through the class means of their batch.
        running: the class means, and the weights of the samples behind them.
    """

    gradient = False
    running: RunningClassMeans | RunningRows

    def __init__(
        self, in_features: int, tasks_or_classes: TaskSpec | Tasks | int, **options: Any
    ) -> None:
        tasks = Tasks.parse(tasks_or_classes, "tasks_or_classes")
        super().__init__(in_features, tasks, **options)
        self._last: Tensor | None = None  # labels of the last batch observed

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
            labels: integers of shape (...), -100 for samples without one; for several tasks one
                tensor a task, by name or in order.

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
        self._last = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}  # needed in the backward pass at hand only

    @property
    def decay(self) -> float:
        """Factor of the weight of older samples in each batch."""
        return self.running.decay

    @property
    def tasks_or_classes(self) -> Tasks:
        """The tasks, by the name of the constructor's argument."""
        return self.tasks

    def _observe(self, features: Tensor, labels: Labels) -> Tensor | None:
        """Take a batch in; the geometry derived from it, where that is not what is in use then."""
        raise NotImplementedError

    def _is_recomputed(self, labels: Tensor) -> bool:
        """Whether activation checkpointing runs a batch again, in backward.

        It was observed in forward, and is not a second time.
        """
        if torch._C._current_graph_task_id() == -1:
            return False
        last = self._last
        if last is None or last.shape != labels.shape or not torch.equal(last, labels):
            raise RuntimeError(
                f"{type(self).__name__} was run in a backward pass with another batch than it "
                "observed last: call backward after each forward, or leave the head out of what "
                "activation checkpointing recomputes"
            )
        return True

    def _scores_with(self, features: Tensor, derived: Tensor) -> Tensor:
        """Products of features with the class vectors of a derived geometry."""
        raise NotImplementedError
