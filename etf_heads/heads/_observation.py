"""Observation of a batch as a function of tensors: eager, and as one operator of a graph.

It looks at values (labels in range, features finite, means that lack rank), and at other processes,
so no compiler can trace it. As an operator it stays whole, with its checks, and the graph around it
is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from etf_heads._labels import Labels
from etf_heads._tasks import Tasks
from etf_heads.geometry import nearest_orientation
from etf_heads.heads._running_means import RunningClassMeans, class_sums_of_all, unit_rows


class Rule(NamedTuple):
    """Settings of the observation that are not tensors.

    Attributes:
        kind: "nearest", an orientation (d, sum K_t - T); "centred means" or "means", unit vectors
            (sum K_t, d).
        sizes: class counts.
        names: of the tasks, for messages; empty where they have none.
        decay: of the running means.
        update_every: batches between two geometries.
        proximal: of the nearest orientation.
        solver: of the nearest orientation.
    """

    kind: str
    sizes: Sequence[int]
    names: Sequence[str]
    decay: float
    update_every: int
    proximal: float = 0.0
    solver: str = "polar"


class State(NamedTuple):
    """The state before an observation: the running means, and the geometry in use."""

    means: Tensor
    counts: Tensor
    updates: Tensor
    frame: Tensor


def observe(
    features: Tensor, labels: Labels, running: RunningClassMeans, frame: Tensor, rule: Rule
) -> Tensor | None:
    """Take a batch into the running means; the geometry that they have then, where one is due."""
    means = running.update(*class_sums_of_all(features, labels, running.tasks))
    if rule.update_every > 1 and (int(running.updates) - 1) % rule.update_every:
        return None
    vectors = means if rule.kind == "means" else running.centred(means)
    if rule.kind == "nearest":
        return nearest_orientation(
            vectors,
            running.tasks,
            previous=frame,
            proximal=rule.proximal,
            solver=rule.solver,  # type: ignore[arg-type]
        )
    return unit_rows(vectors)


def observe_again(features: Tensor, labels: Labels, state: State, rule: Rule) -> Tensor | None:
    """The result of :func:`observe` from that state, which stays as it is."""
    return observe(features, labels, _running(state, rule), state.frame, rule)


def observe_in_graph(
    features: Tensor, labels: Tensor, state: State, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """The geometry after a batch (or the one before), means and counts, by one operator."""
    answer: tuple[Tensor, Tensor, Tensor] = _observe(features, labels, *state, *rule)
    return answer


def _running(state: State, rule: Rule) -> RunningClassMeans:
    width = state.means.shape[1]
    tasks = Tasks(tuple(rule.sizes), tuple(rule.names) or None)
    running = RunningClassMeans(tasks, width, rule.decay, device="meta")
    running.means, running.counts, running.updates = state[:3]
    return running


_ARGUMENTS = (
    "Tensor features, Tensor labels, Tensor means, Tensor counts, Tensor updates, Tensor frame, "
    "str kind, int[] sizes, str[] names, float decay, int update_every, float proximal, str solver"
)
_BATCH, _STATE, _RULE = slice(0, 2), slice(2, 6), slice(6, None)


@torch.library.custom_op(
    "etf_heads::observe", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)"
)
def _observe(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    state, rule = State(*given[_STATE]), Rule(*given[_RULE])
    running = _running(state, rule)
    features, labels = given[_BATCH]
    frame = observe(features, labels, running, state.frame, rule)
    frame = state.frame.clone() if frame is None else frame.contiguous()
    return frame, running.means, running.counts


@torch.library.custom_op(
    "etf_heads::observe_backward",
    mutates_args=(),
    schema=f"(Tensor upstream, {_ARGUMENTS}) -> Tensor",
)
def _observe_backward(upstream: Tensor, features: Tensor, labels: Tensor, *rest: Any) -> Tensor:
    state, rule = State(*rest[:4]), Rule(*rest[4:])

    def frame(features: Tensor) -> Tensor:
        found = observe_again(features, labels, state, rule)
        return state.frame + 0 * features.sum() if found is None else found

    (gradient,) = torch.func.vjp(frame, features)[1](upstream)
    return gradient


@_observe.register_fake
def _(*given: Any) -> tuple[Tensor, ...]:
    state = State(*given[_STATE])
    return tuple(torch.empty_like(t) for t in (state.frame, state.means, state.counts))


@_observe_backward.register_fake
def _(*given: Any) -> Tensor:
    return torch.empty_like(given[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 (by name)
    ctx.save_for_backward(*inputs[:6])
    ctx.rule = inputs[_RULE]


def _backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    gradient = _observe_backward(upstream, *ctx.saved_tensors, *ctx.rule)
    return gradient, *[None] * 12


_observe.register_autograd(_backward, setup_context=_setup)
