"""The base class of heads whose geometry is computed from all running class means at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import Labels, stack_labels
from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads.heads._observation import (
    Rule,
    State,
    observe,
    observe_again,
    observe_in_graph,
)
from etf_heads.heads._observing import ObservingHead
from etf_heads.heads._running_means import RunningClassMeans


class DerivingHead(ObservingHead):
    """A head whose class vectors are computed from the running means of all classes.

    Subclasses say how: :meth:`_rule` which geometry of the class means it is, :meth:`_keep` and
    :meth:`_frame_in_use` where it is stored, :meth:`_scores_with` how it is used.

    Args:
        in_features: d.
        tasks_or_classes: as in :class:`ObservingHead`.
        decay: see :class:`RunningClassMeans`.
        gradient: whether the loss also moves features through the class means of their batch.
        update_every: derive the geometry on the first and every n-th batch observed after it;
            the means take in every batch.
        options: as in :class:`Head`.
    """

    running: RunningClassMeans

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
        super().__init__(in_features, tasks_or_classes, device=device, dtype=dtype, **options)
        self.gradient = bool(gradient)
        self.update_every = positive_int(update_every, "update_every")
        self.running = RunningClassMeans(self.tasks, in_features, decay, device=device, dtype=dtype)
        # Of the last batch: the state before it where the loss moves that, and its geometry.
        self._before: State | None = None
        self._derived: Tensor | None = None

    def reset_parameters(self) -> None:
        """Set what is learned to its start, and forget what was observed."""
        super().reset_parameters()
        self._before = self._derived = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_before": None, "_derived": None}

    def _observe(self, features: Tensor, labels: Labels) -> Tensor | None:
        if not self.gradient:
            features = features.detach()
        if torch.compiler.is_compiling():
            return self._observe_in_graph(features, labels)
        stacked = stack_labels(labels, self.tasks, tuple(features.shape[:-1]))
        if self._is_recomputed(stacked):
            before = self._before
            if before is None:
                return self._derived
            return observe_again(features, stacked, before, self._rule())
        before = self._state()
        derived = observe(features, stacked, self.running, before.frame, self._rule())
        kept = None if derived is None else derived.detach()
        if kept is not None:
            self._keep(kept)
        self._last, self._derived = stacked, kept
        self._before = before if self.gradient else None
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

    def _state(self) -> State:
        running = self.running
        return State(running.means, running.counts, running.updates, self._frame_in_use())

    def _rule(self) -> Rule:
        raise NotImplementedError

    def _frame_in_use(self) -> Tensor:
        raise NotImplementedError

    def _keep(self, derived: Tensor) -> None:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return f"{super().extra_repr()}, gradient={self.gradient}, update_every={self.update_every}"
