"""Every measure, for the laws in test_measure_laws.py: a new one adds a row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from etf_heads.collapse import (
    BufferDistortion,
    CollapseMetric,
    ManyClassCollapse,
    MultiLabelCollapse,
    MultiSourceCollapse,
    MultiTaskCollapse,
    RegressionCollapse,
    SingleTaskCollapse,
    VarianceCollapse,
)

DIM = 6
TASKS = {"a": 4, "b": 3}


@dataclass(frozen=True)
class Case:
    """A measure, and what its ``update`` takes from N samples.

    Attributes:
        make: the measure for DIM features.
        labels: labels (N, 2) of TASKS, some -100, as ``update`` takes them.
        weight: rows of class vectors that ``compute`` takes; None when it takes none.
        features: features (N, DIM) as ``update`` takes them.
        more: further arguments of ``update``.
    """

    make: Callable[[], CollapseMetric]
    labels: Callable[[Tensor], Any]
    weight: int | None = None
    features: Callable[[Tensor], Any] = lambda features: features
    more: tuple[Any, ...] = ()


def label_sets(labels: Tensor) -> Tensor:
    """Both labels of every sample as one set of labels from 0 to 3: (N, 4)."""
    return (labels[:, :, None] == torch.arange(4)).any(1)


MEASURES = {
    "single": Case(lambda: SingleTaskCollapse(DIM, 4), lambda y: y[:, 0], 4),
    "single, traces": Case(
        lambda: SingleTaskCollapse(DIM, 4, covariance="trace"), lambda y: y[:, 0], 4
    ),
    "single, published": Case(
        lambda: SingleTaskCollapse(DIM, 4, published=True), lambda y: y[:, 0], 4
    ),
    "many classes": Case(lambda: ManyClassCollapse(DIM, 4), lambda y: y[:, 0], 4),
    "multi-label": Case(lambda: MultiLabelCollapse(DIM, 4), label_sets, 4),
    "multi-task": Case(lambda: MultiTaskCollapse(DIM, TASKS), lambda y: y, 7),
    "multi-source": Case(
        lambda: MultiSourceCollapse(DIM, TASKS),
        lambda y: list(y.T),
        7,
        features=lambda features: [features, features],
    ),
    "regression": Case(lambda: RegressionCollapse(DIM, 2), lambda y: y.double().clamp_min(-1), 2),
}


M = TypeVar("M", VarianceCollapse, BufferDistortion)


def with_other_part(measure: M, part: str) -> M:
    """A measure of two parts that has seen one of them: its laws are those of the other."""
    generator = torch.Generator().manual_seed(9)
    features = torch.randn(50, DIM, generator=generator, dtype=torch.float64)
    measure.update(features, torch.arange(50) % 4, part)
    return measure


MEASURES["variance"] = Case(
    lambda: with_other_part(VarianceCollapse(DIM, 4, test_samples=0), "train"),
    lambda y: y[:, 0],
    more=("test",),
)
MEASURES["buffer"] = Case(
    lambda: with_other_part(BufferDistortion(DIM, 4), "population"),
    lambda y: y[:, 0],
    more=("buffer",),
)
