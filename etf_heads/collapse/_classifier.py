"""Classifiers as users give them, frozen: class vectors with biases, or modules."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._tasks import Tasks
from etf_heads.collapse._vectors import Biases, Weights, class_biases, class_vectors, entries


class Classifier:
    """Logits of a classifier as it was when this object was made.

    Tensors are a linear map in float64. A module decides by its own forward, in evaluation mode
    and in its own precision: a copy of it, so that nothing that it observes or normalises by
    changes. One that normalises its features does so here as well.

    Args:
        weight: as in the measures' ``compute``.
        bias: the same; a module beside a bias gives its class vectors only.
        tasks: whose classes they are.
        num_features: d.
        device: of tensors.

    Raises:
        ValueError: for wrong shapes.
    """

    def __init__(
        self,
        weight: Weights,
        bias: Biases | None,
        tasks: Tasks,
        num_features: int,
        device: torch.device,
    ) -> None:
        own_forward = bias is None
        vectors = class_vectors(weight, tasks, num_features, device, own_forward=own_forward)
        self._tasks = tasks
        self._whole: nn.Module | None = None
        self._parts: list[nn.Module | tuple[Tensor, Tensor]] = []
        if own_forward and _classifies(weight):
            self._whole = _frozen(weight)
            return
        modules: Sequence[Any] = [None] * len(tasks)
        if own_forward and not isinstance(weight, Tensor):
            modules = tasks.unpack(entries(weight), "weight")
        biases = class_biases(bias, weight, tasks, device)
        for given, *linear in zip(modules, vectors, biases, strict=True):
            self._parts.append(_frozen(given) if _classifies(given) else (linear[0], linear[1]))

    @torch.no_grad()
    def logits(self, features: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """(B, K_t) logits of each wanted task from (B, d) features as they were given."""
        if self._whole is None:
            return [self._own_logits(task, features) for task in wanted]
        found: Any = _called(self._whole, features)
        if isinstance(found, Tensor):
            fits = found.shape[-1] == self._tasks.total
            found = [found[..., rows] if fits else found for rows in self._tasks.slices]
        found = self._tasks.unpack(found, "logits")
        return [self._checked(task, found[task], features) for task in wanted]

    def _own_logits(self, task: int, features: Tensor) -> Tensor:
        part = self._parts[task]
        if isinstance(part, nn.Module):
            return self._checked(task, _called(part, features), features)
        weight, bias = (tensor.to(features.device) for tensor in part)
        return torch.addmm(bias, features.to(torch.float64), weight.T)

    def _checked(self, task: int, logits: Any, features: Tensor) -> Tensor:
        needed = (len(features), self._tasks.sizes[task])
        if not isinstance(logits, Tensor) or tuple(logits.shape) != needed:
            given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the classifier gives logits of shape {given} for task "
                f"{self._tasks.labels[task]!r}, expected {needed}: give its class vectors and "
                f"biases as tensors"
            )
        return logits


def _classifies(given: Any) -> bool:
    return isinstance(given, nn.Module) and isinstance(getattr(given, "weight", None), Tensor)


def _frozen(module: Any) -> nn.Module:
    frozen: nn.Module = copy.deepcopy(module)
    return frozen.eval()


def _called(module: nn.Module, features: Tensor) -> Any:
    tensors = chain(module.parameters(), module.buffers())
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), features.dtype)
    return module.to(features.device)(features.to(dtype))
