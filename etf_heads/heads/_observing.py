"""The base class of heads that follow the running class means: the protocol of observing."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import Labels, stack_labels
from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads._tracing import call_recorded
from etf_heads.heads._base import Head
from etf_heads.heads._feature_norm import normalised
from etf_heads.heads._observation import (
    Rule,
    State,
    observe,
    observe_again,
    observe_in_graph,
)
from etf_heads.heads._running_means import RunningClassMeans


class ObservingHead(Head):
    """A head whose class vectors are computed from running class means.

    Subclasses say how: :meth:`_rule` which geometry of the class means it is, :meth:`_keep` and
    :meth:`_frame_in_use` where it is stored, :meth:`_scores_with` how it is used.

    Under ``torch.compile`` the observation is one operator, and the whole step one graph
    (``fullgraph=True``). Behind activation checkpointing a batch is observed once, in forward.

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
        # Of the last batch: its labels, the state before it where the loss moves that, and the
        # geometry it gave.
        self._last: tuple[Tensor, State | None, Tensor | None] | None = None

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
        self._last = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}  # of use in the backward pass at hand only

    @property
    def decay(self) -> float:
        """Factor of the weight of older samples in each batch."""
        return self.running.decay

    @property
    def tasks_or_classes(self) -> Tasks:
        """The tasks, by the name of the constructor's argument."""
        return self.tasks

    def _observe(self, features: Tensor, labels: Labels) -> Tensor | None:
        """Take a batch in; the geometry derived from it, where one was due."""
        if not self.gradient:
            features = features.detach()
        if torch.compiler.is_compiling():
            return self._observe_in_graph(features, labels)
        stacked = stack_labels(labels, self.tasks, tuple(features.shape[:-1]))
        if torch._C._current_graph_task_id() != -1:
            return self._recompute(features, stacked)
        before = self._state()
        derived = observe(features, stacked, self.running, before.frame, self._rule())
        kept = None if derived is None else derived.detach()
        if kept is not None:
            self._keep(kept)
        self._last = (stacked, before if self.gradient else None, kept)
        return derived

    def _observe_in_graph(self, features: Tensor, labels: Labels) -> Tensor:
        stacked = stack_labels(labels, self.tasks, tuple(features.shape[:-1]))
        # Copies: what backward needs of the state is that from before the batch.
        before = State(*(tensor.clone() for tensor in self._state()))
        derived, means, counts = observe_in_graph(features, stacked, before, self._rule())
        with torch.no_grad():
            self.running.means.copy_(means)
            self.running.counts.copy_(counts)
            self.running.updates.add_(1)
            self._state().frame.copy_(derived)
        return derived

    def _recompute(self, features: Tensor, labels: Tensor) -> Tensor | None:
        """The geometry that a batch had, for activation checkpointing: in backward, run again.

        It was observed in forward, and is not a second time.
        """
        last, before, kept = self._last or (None, None, None)
        if last is None or last.shape != labels.shape or not torch.equal(last, labels):
            raise RuntimeError(
                f"{type(self).__name__} was run in a backward pass with another batch than it "
                "observed last: call backward after each forward, or leave the head out of what "
                "activation checkpointing recomputes"
            )
        return kept if before is None else observe_again(features, labels, before, self._rule())

    def _state(self) -> State:
        running = self.running
        return State(running.means, running.counts, running.updates, self._frame_in_use())

    def _rule(self) -> Rule:
        raise NotImplementedError

    def _frame_in_use(self) -> Tensor:
        raise NotImplementedError

    def _keep(self, derived: Tensor) -> None:
        raise NotImplementedError

    def _scores_with(self, features: Tensor, derived: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return f"{super().extra_repr()}, gradient={self.gradient}, update_every={self.update_every}"
