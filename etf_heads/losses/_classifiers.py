"""Classifiers as losses see them: fixed heads, and learned linear layers in the same form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads._tasks import Tasks
from etf_heads.heads import Head
from etf_heads.heads._linear import joined_biases

AnyHead = Head | nn.Module | Mapping[str, nn.Linear] | Sequence[nn.Linear]
"""A head of this package, an ``nn.Linear``, or an ``nn.ModuleDict`` (a dict, a list) of them."""


@dataclass(frozen=True)
class LinearClassifier:
    """Learned class vectors of one or more tasks, with what losses ask of a head.

    Attributes:
        tasks: the tasks that the rows of the weight belong to.
        weight: class vectors (sum K_t, d).
        bias: (sum K_t,), or None.
        norm: normalisation of the features, or None.
        normalise: how it is applied.
    """

    tasks: Tasks
    weight: Tensor
    bias: Tensor | None
    norm: nn.Module | None = None
    normalise: Callable[[Tensor], Tensor] | None = None

    def prepare(self, features: Tensor) -> Tensor:
        """Features (..., d), of the right size, normalised."""
        if features.shape[-1] != self.weight.shape[1]:
            raise ValueError(
                f"features have {features.shape[-1]} entries, the head takes {self.weight.shape[1]}"
            )
        return features if self.normalise is None else self.normalise(features)

    def all_logits(self, features: Tensor) -> Tensor:
        """Logits of all tasks side by side: (..., d) -> (..., sum K_t)."""
        return F.linear(self.prepare(features), self.weight, self.bias)

    def all_softmax_logits(self, features: Tensor) -> Tensor:
        """The same."""
        return self.all_logits(features)

    def frame_rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Class vectors: indices (...) of classes, of all tasks side by side -> (..., d)."""
        return self.weight[indices].to(dtype)


Classifier = Head | LinearClassifier


def classifier_of(head: AnyHead) -> Classifier:
    """The user's head as a :class:`Head` or a :class:`LinearClassifier`, or ValueError.

    Learned heads are an ``nn.Linear``, several by task, or a module with a ``weight`` (sum K_t, d)
    and perhaps ``bias``, ``tasks`` (class counts) and ``norm``. Wrappers of ``torch.compile`` and
    of ``replace_head`` are looked into.
    """
    if isinstance(head, Head):
        return head
    given: Any = getattr(head, "_orig_mod", head)
    if not isinstance(given, Head) and isinstance(getattr(given, "head", None), Head):
        given = given.head
    if isinstance(given, Head):
        return given
    if isinstance(given, nn.ModuleDict | Mapping):
        return _joined(dict(given.items()))
    if isinstance(given, nn.ModuleList | list | tuple):
        return _joined(list(given))
    weight = getattr(given, "weight", None)
    if not (isinstance(weight, Tensor) and weight.ndim == 2):
        raise ValueError(
            "head must be a head of etf_heads, an nn.Linear, or an nn.ModuleDict of nn.Linear by "
            f"task, got {type(given).__name__}: of other classifiers take the logits, and a loss "
            "of logits such as torch.nn.functional.cross_entropy"
        )
    tasks = Tasks.parse(getattr(given, "tasks", None) or [len(weight)], "head.tasks")
    if tasks.total != len(weight):
        raise ValueError(f"head has {len(weight)} class vectors for {tasks.total} classes")
    bias, norm = getattr(given, "bias", None), getattr(given, "norm", None)
    if not isinstance(norm, nn.Module):
        return LinearClassifier(tasks, weight, bias)
    return LinearClassifier(tasks, weight, bias, norm, getattr(given, "prepare", norm))


def _joined(layers: dict[str, Any] | list[Any]) -> LinearClassifier:
    """Linear layers, one a task, as one."""
    parts = list(layers.values()) if isinstance(layers, dict) else layers
    widths = {part.in_features if isinstance(part, nn.Linear) else None for part in parts}
    if len(widths) != 1 or None in widths:
        kinds = ", ".join(sorted({type(part).__name__ for part in parts})) or "nothing"
        raise ValueError(
            "a head of several tasks has one nn.Linear a task, all of the same features; got "
            f"{kinds} of {sorted(map(str, widths))} features"
        )
    sizes = [part.out_features for part in parts]
    tasks = Tasks.parse(
        dict(zip(layers, sizes, strict=True)) if isinstance(layers, dict) else sizes
    )
    weight = torch.cat([part.weight for part in parts])
    bias = joined_biases([part.bias for part in parts], sizes, weight)
    return LinearClassifier(tasks, weight, bias)
