"""Classifier heads by name: the fixed ones of the library, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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

    def linears(self) -> nn.ModuleDict:
        """Copies of the classifier as one linear layer a task, without the normalisation."""
        sizes = list(self.tasks.values())
        linears = nn.ModuleDict()
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
        labels: training labels (N, T), for heads that depend on how they are distributed.
        scale: length of the class vectors of heads that are not learned.
        feature_norm: parameter-free normalisation before the head.
    """

    features: int
    tasks: Mapping[str, int]
    labels: Tensor
    scale: float
    feature_norm: FeatureNorm

    @property
    def options(self) -> dict[str, Any]:
        """What all heads that are not learned take."""
        return {"scale": self.scale, "feature_norm": self.feature_norm}


HeadBuilder = Callable[[HeadRequest], nn.Module]
"""Makes a head, whose forward maps (B, features) to a dict of logits.

A head has ``norm`` (a module or None, applied to the features first), ``weight`` (dense, shape
(sum K_t, features)) and ``bias`` (shape (sum K_t,) or None), which the measures read.
"""


def _compound(orientation: str | None) -> HeadBuilder:
    return lambda of: CompoundETFHead(of.features, of.tasks, orientation=orientation, **of.options)


def _nearest(*, gradient: bool) -> HeadBuilder:
    return lambda of: NearestETFHead(of.features, of.tasks, gradient=gradient, **of.options)


HEADS: dict[str, HeadBuilder] = {
    "learned": lambda of: LearnedHead(of.features, of.tasks),
    "learned-norm": lambda of: LearnedHead(of.features, of.tasks, feature_norm=of.feature_norm),
    "compound": _compound(None),
    "compound-canonical": _compound("canonical"),
    "compound-tiled": _compound("tiled"),
    "compound-hadamard": _compound("hadamard"),
    "compound-random": _compound("random"),
    "correlated": lambda of: CorrelatedETFHead.from_labels(
        of.features, of.tasks, of.labels.cpu(), **of.options
    ),
    "nearest": _nearest(gradient=False),
    "nearest-gradient": _nearest(gradient=True),
    "class-mean": lambda of: ClassMeanHead(of.features, of.tasks, **of.options),
}
"""Heads by name; "compound" has the library's default orientation."""

OBSERVING = (NearestETFHead, ClassMeanHead)
"""Heads that follow the class means, and so are given the labels in training."""
