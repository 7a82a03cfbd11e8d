"""Classifier heads by name: the fixed ones of the library, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads import ClassMeanHead, CompoundETFHead, CorrelatedETFHead, NearestETFHead
from etf_heads.heads import FeatureNorm, feature_norm


class LearnedHead(nn.Module):
    """The usual classifier, ``nn.Linear``, with the interface of the fixed heads.

    Args:
        in_features: size of the features.
        tasks: number of classes by task name.
        feature_norm: the same parameter-free normalisation that fixed heads offer.
    """

    def __init__(
        self, in_features: int, tasks: Mapping[str, int], *, feature_norm: FeatureNorm = None
    ) -> None:
        super().__init__()
        self.tasks = dict(tasks)
        self.norm = _norm(feature_norm, in_features)
        self.linear = nn.Linear(in_features, sum(tasks.values()))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Logits of each task: (..., d) -> (..., K_t)."""
        if self.norm is not None:
            features = self.norm(features)
        logits = self.linear(features).split(list(self.tasks.values()), dim=-1)
        return dict(zip(self.tasks, logits, strict=True))

    def linears(self) -> dict[str, nn.Linear]:
        """Copies of the classifier as one linear layer a task, without the normalisation."""
        sizes = list(self.tasks.values())
        linears = {}
        for task, weight, bias in zip(
            self.tasks, self.weight.split(sizes), self.bias.split(sizes), strict=True
        ):
            linears[task] = nn.Linear(weight.shape[1], len(weight), device=weight.device)
            linears[task].load_state_dict({"weight": weight, "bias": bias})
        return linears

    @property
    def weight(self) -> Tensor:
        """Class vectors, shape (sum K_t, d)."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor:
        """Biases, shape (sum K_t,)."""
        return self.linear.bias


def _norm(kind: FeatureNorm, in_features: int) -> nn.Module | None:
    # A constructor's parameter of the same name hides the function.
    return feature_norm(kind, in_features)


@dataclass(frozen=True)
class HeadRequest:
    """What a head is made for.

    Attributes:
        features: size of the features.
        tasks: number of classes by task name.
        labels: training labels (N, T), for heads that depend on how they are distributed; -1 for
            none.
        own_samples: whether tasks have samples of their own (multi-source).
        scale: length of the class vectors of heads that are not learned.
        learn_scale: whether these learn that length.
        bias: whether these learn a bias a class.
        feature_norm: parameter-free normalisation before the head.
        orientation: where class vectors stand, for heads that leave it to their task alone.
    """

    features: int
    tasks: Mapping[str, int]
    labels: Tensor
    own_samples: bool
    scale: float
    learn_scale: bool
    bias: bool
    feature_norm: FeatureNorm
    orientation: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What all heads that are not learned take."""
        return {
            "scale": self.scale,
            "learn_scale": self.learn_scale,
            "bias": self.bias,
            "feature_norm": self.feature_norm,
        }


HeadBuilder = Callable[[HeadRequest], nn.Module]
"""Makes a head, whose forward maps (B, features) to a dict of logits.

A head has ``norm`` (a module or None, applied to the features first), ``weight`` (dense, shape
(sum K_t, features)) and ``bias`` (shape (sum K_t,) or None), which the measures read.
"""


class TaskByTaskHead(nn.Module):
    """A head of its own for every task, for tasks that have samples of their own.

    Such tasks meet in the features only, so what is optimal, or nearest, for all of them together
    is so for each alone. Each has a random orientation of its own where it needs one: with one for
    all, the first classes of all tasks would share a vector.

    Args:
        build: makes the head of one task.
        request: of all tasks.
    """

    def __init__(self, build: HeadBuilder, request: HeadRequest) -> None:
        super().__init__()
        self.norm = _norm(request.feature_norm, request.features)
        self.heads = nn.ModuleList()
        for number, (task, classes) in enumerate(request.tasks.items()):
            column = request.labels[:, number]
            alone = {
                "tasks": {task: classes},
                "labels": column[column >= 0][:, None],
                "own_samples": False,
                "feature_norm": None,
                "orientation": f"random:{number}",
            }
            self.heads.append(build(replace(request, **alone)))
        self.tasks = tuple(request.tasks)

    def forward(
        self, features: Tensor, labels: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Logits of each task: (B, d) -> (B, K_t).

        Args:
            features: (B, d).
            labels: of each task, (B,), -1 for none. In training mode heads that follow the class
                means observe each task's own samples; the logits of others are 0 then.
        """
        if self.norm is not None:
            features = self.norm(features)
        logits = {}
        for task, head in zip(self.tasks, self.heads, strict=True):
            if labels is None or not self.training or not isinstance(head, FOLLOWING):
                logits |= head(features)
                continue
            own = labels[task] >= 0
            found = head(features[own], {task: labels[task][own]})[task]
            logits[task] = found.new_zeros(len(features), found.shape[1]).index_put((own,), found)
        return logits

    @property
    def weight(self) -> Tensor:
        """Class vectors, shape (sum K_t, d)."""
        return torch.cat([head.weight for head in self.heads])

    @property
    def bias(self) -> Tensor | None:
        """Biases, shape (sum K_t,), if there are any."""
        biases = [head.bias for head in self.heads]
        return None if biases[0] is None else torch.cat(biases)


def _compound(orientation: str | None) -> HeadBuilder:
    def build(of: HeadRequest) -> nn.Module:
        cross_task = "independent" if of.own_samples else "orthogonal"
        return CompoundETFHead(
            of.features, of.tasks, cross_task=cross_task, orientation=orientation, **of.options
        )

    return build


def _task_by_task(build: HeadBuilder) -> HeadBuilder:
    """The same head for all tasks together, or one a task where these have their own samples."""
    return lambda of: TaskByTaskHead(build, of) if of.own_samples else build(of)


def _nearest(*, gradient: bool) -> HeadBuilder:
    return _task_by_task(
        lambda of: NearestETFHead(of.features, of.tasks, gradient=gradient, **of.options)
    )


HEADS: dict[str, HeadBuilder] = {
    "learned": lambda of: LearnedHead(of.features, of.tasks),
    "learned-norm": lambda of: LearnedHead(of.features, of.tasks, feature_norm=of.feature_norm),
    "compound": _compound(None),
    "compound-canonical": _compound("canonical"),
    "compound-tiled": _compound("tiled"),
    "compound-hadamard": _compound("hadamard"),
    "compound-random": _compound("random"),
    "correlated": _task_by_task(
        lambda of: CorrelatedETFHead.from_labels(
            of.features, of.tasks, of.labels.cpu(), orientation=of.orientation, **of.options
        )
    ),
    "nearest": _nearest(gradient=False),
    "nearest-gradient": _nearest(gradient=True),
    "class-mean": _task_by_task(lambda of: ClassMeanHead(of.features, of.tasks, **of.options)),
}
"""Heads by name; "compound" has the library's default orientation."""

FOLLOWING = (NearestETFHead, ClassMeanHead)
"""Heads that follow the class means."""

OBSERVING = (*FOLLOWING, TaskByTaskHead)
"""Heads that are given the labels in training."""
