"""Features and class vectors of unit length, and the cosines between them."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from etf_heads._precision import at_least_float32
from etf_heads.codes import SimplexCode
from etf_heads.heads import Head, feature_norm
from etf_heads.losses._classifiers import Classifier, LinearClassifier


def check_temperature(temperature: float) -> float:
    """A positive finite number, or ValueError."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive finite number, got {temperature!r}")
    return float(temperature)


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., d) divided by their length, in float32 at least; zero stays zero."""
    norm = feature_norm("unit", vectors.shape[-1])
    assert norm is not None  # noqa: S101 ("unit" names one)
    return norm(vectors.to(at_least_float32(vectors.dtype)))


def unit_features(head: Classifier, features: Tensor) -> Tensor:
    """Features (..., d) as the head sees them, behind its own normalisation, of unit length."""
    return unit(head.prepare(features))


def cosines(head: Classifier, features: Tensor) -> Tensor:
    """Cosines of unit features (..., d) with all class vectors: (..., sum K_t)."""
    if isinstance(head, LinearClassifier):
        return features @ unit(head.weight).to(features.dtype).mT
    scores = head.scores(features)
    if has_unit_simplexes(head):
        return scores
    lengths = torch.linalg.vector_norm(head.frame(), dim=1)
    return scores / lengths.where(lengths > 0, 1).to(scores.dtype)


def has_unit_simplexes(head: Head) -> bool:
    """Whether each task's class vectors are known to be a simplex ETF of unit vectors."""
    return isinstance(getattr(head, "code", None), SimplexCode)


def unit_class_vectors(head: Classifier, task: int, classes: Tensor, like: Tensor) -> Tensor:
    """Class vectors of classes (N,) of a task, of unit length, in the dtype of others: (N, d)."""
    indices = classes + head.tasks.slices[task].start
    return unit(head.frame_rows(indices, like.dtype)).to(like.dtype)


def without_autocast(features: Tensor) -> AbstractContextManager[object]:
    """Cosines in bfloat16 are wrong by 4e-3, and are divided by a temperature."""
    kind = features.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
