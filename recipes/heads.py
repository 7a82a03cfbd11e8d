"""Classifier heads by name: the fixed ones of the library, and what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from etf_heads import CompoundETFHead, CorrelatedETFHead
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


class HeadBuilder(Protocol):
    """How a head is made for a network: forward maps (B, features) to a dict of logits.

    A head has ``norm`` (a module or None, applied to the features first), ``weight`` (dense,
    shape (sum K_t, features)) and ``bias`` (shape (sum K_t,) or None), which the measures read.
    """

    def __call__(
        self,
        features: int,
        tasks: Mapping[str, int],
        *,
        labels: Tensor,
        scale: float,
        feature_norm: FeatureNorm,
    ) -> nn.Module:
        """Make a head for features of this size, these tasks and these training labels (N, T)."""
        ...


def _learned(
    features: int,
    tasks: Mapping[str, int],
    *,
    labels: Tensor,  # noqa: ARG001  (a learned head finds out)
    scale: float,  # noqa: ARG001
    feature_norm: FeatureNorm,  # noqa: ARG001  (this is the head without it)
) -> nn.Module:
    return LearnedHead(features, tasks)


def _learned_norm(
    features: int,
    tasks: Mapping[str, int],
    *,
    labels: Tensor,  # noqa: ARG001
    scale: float,  # noqa: ARG001
    feature_norm: FeatureNorm,
) -> nn.Module:
    return LearnedHead(features, tasks, feature_norm=feature_norm)


def _compound(orientation: str | None) -> HeadBuilder:
    def build(
        features: int,
        tasks: Mapping[str, int],
        *,
        labels: Tensor,  # noqa: ARG001  (the same for all labels)
        scale: float,
        feature_norm: FeatureNorm,
    ) -> nn.Module:
        return CompoundETFHead(
            features, tasks, orientation=orientation, scale=scale, feature_norm=feature_norm
        )

    return build


def _correlated(
    features: int,
    tasks: Mapping[str, int],
    *,
    labels: Tensor,
    scale: float,
    feature_norm: FeatureNorm,
) -> nn.Module:
    return CorrelatedETFHead.from_labels(
        features, tasks, labels.cpu(), scale=scale, feature_norm=feature_norm
    )


HEADS: dict[str, HeadBuilder] = {
    "learned": _learned,
    "learned-norm": _learned_norm,
    "compound": _compound(None),
    "compound-canonical": _compound("canonical"),
    "compound-tiled": _compound("tiled"),
    "compound-hadamard": _compound("hadamard"),
    "compound-random": _compound("random"),
    "correlated": _correlated,
}
"""Heads by name; "compound" has the library's default orientation."""
