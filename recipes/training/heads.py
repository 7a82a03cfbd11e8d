"""Classifier heads by name: the fixed ones of the library, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from etf_heads.codes import Code
    from etf_heads.heads import FeatureNorm, Head


@dataclass(frozen=True)
class HeadRequest:
    """The sizes and settings that a head is built from.

    Attributes:
        features: size of the features.
        tasks: number of classes by task name.
        labels: training labels (N, T), for heads that depend on how they are distributed; -100 for
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
    own_samples: bool = False
    scale: float = 1.0
    learn_scale: bool = False
    bias: bool = False
    feature_norm: FeatureNorm = None
    orientation: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of all heads that are not learned."""
        return {
            "scale": self.scale,
            "learn_scale": self.learn_scale,
            "bias": self.bias,
            "feature_norm": self.feature_norm,
        }


HeadBuilder = Callable[[HeadRequest], Any]
"""Makes a head, whose forward maps (B, features) to a dict of logits.

A head has ``norm`` (a module or None, applied to the features first), ``weight`` (dense, shape
(sum K_t, features)) and ``bias`` (shape (sum K_t,) or None), which the measures read.
"""


def _learned(of: HeadRequest, *, normalised: bool) -> nn.Module:
    from etf_heads.heads import LinearHead

    return LinearHead(of.features, of.tasks, feature_norm=of.feature_norm if normalised else None)


def _learned_unit(of: HeadRequest) -> nn.Module:
    """Cosines of learned class vectors with features of unit length, times the scale."""
    from etf_heads.heads import LinearHead
    from recipes.training.unit_rows import with_unit_rows

    head = LinearHead(of.features, of.tasks, bias=False, feature_norm="unit")
    return with_unit_rows(head, of.scale)


def _compound(of: HeadRequest, *, orientation: str | None = None) -> nn.Module:
    from etf_heads import CompoundETFHead

    return CompoundETFHead(
        of.features,
        of.tasks,
        cross_task="independent" if of.own_samples else "orthogonal",
        orientation=orientation,
        **of.options,
    )


def _of_library(name: str, **own: Any) -> HeadBuilder:
    """A head of ``etf_heads`` by name, with options of its own; imported when it is built."""

    def build(of: HeadRequest) -> nn.Module:
        head: nn.Module = getattr(import_module("etf_heads"), name)(
            of.features, of.tasks, **own, **of.options
        )
        return head

    return build


def _task_by_task(build: HeadBuilder, *, always: bool = False) -> HeadBuilder:
    """The same head for all tasks together, or one a task where these have their own samples.

    Args:
        build: makes a head.
        always: one a task wherever there are several.
    """

    def build_all(of: HeadRequest) -> nn.Module:
        if not of.own_samples and not (always and len(of.tasks) > 1):
            return build(of)
        from etf_heads.heads import MultiSourceHead

        heads: dict[str, Head] = {
            task: build(_alone(of, task, t)) for t, task in enumerate(of.tasks)
        }
        return MultiSourceHead(heads, feature_norm=of.feature_norm)

    return build_all


def _alone(of: HeadRequest, task: str, number: int) -> HeadRequest:
    """The request for the head of one task."""
    column = of.labels[:, number]
    return replace(
        of,
        tasks={task: of.tasks[task]},
        labels=column[column >= 0][:, None],
        own_samples=False,
        feature_norm=None,
        orientation=f"random:{number}",
    )


def _correlated(of: HeadRequest) -> nn.Module:
    from etf_heads import CorrelatedETFHead

    return CorrelatedETFHead.from_labels(
        of.features, of.tasks, of.labels.cpu(), orientation=of.orientation, **of.options
    )


def _spherical_chosen(of: HeadRequest) -> nn.Module:
    from etf_heads import SphericalCodeHead

    code = _all_vectors(SphericalCodeHead(of.features, of.tasks).code)
    return SphericalCodeHead(of.features, of.tasks, code=code, **of.options)


def _multi_centre(
    of: HeadRequest, *, most: int, reduce: Literal["sum", "direction"] = "sum"
) -> nn.Module:
    """Centres of a class by its frequency, at most so many."""
    from etf_heads.codes import AssignedCode, MultiCentreCode
    from etf_heads.heads import FixedHead

    (classes,) = of.tasks.values()
    code = MultiCentreCode(centres(of.labels[:, 0], classes, most), reduce=reduce)
    return FixedHead(of.features, AssignedCode(code, of.tasks), of.orientation, **of.options)


def centres(labels: Tensor, classes: int, most: int) -> list[int]:
    """Centres of each class: the root of how many times rarer it is than the most frequent one.

    Args:
        labels: (N,) of training.
        classes: their number.
        most: no class has more.
    """
    counts = labels.bincount(minlength=classes)
    roots = (counts.max() / counts.clamp(min=1)).sqrt().round().long()
    return roots.clamp(max=most).tolist()


def _all_vectors(code: Code) -> Code | None:
    """The whole family of which a code of one task has the first vectors; None of others."""
    from etf_heads.codes import AssignedCode, BasesCode

    if not isinstance(code, BasesCode) or len(code.tasks) > 1:
        return None
    return AssignedCode(type(code)(2 * code.room(code.columns), code.columns), code.tasks)


HEADS: dict[str, HeadBuilder] = {
    "learned": partial(_learned, normalised=False),
    "learned-norm": partial(_learned, normalised=True),
    "learned-unit": _learned_unit,
    "compound": _compound,
    "compound-canonical": partial(_compound, orientation="canonical"),
    "compound-tiled": partial(_compound, orientation="tiled"),
    "compound-hadamard": partial(_compound, orientation="hadamard"),
    "compound-random": partial(_compound, orientation="random"),
    "spherical": _task_by_task(_of_library("SphericalCodeHead")),
    "spherical-chosen": _task_by_task(_spherical_chosen),
    "one-centre": _task_by_task(partial(_multi_centre, most=1), always=True),
    "multi-centre": _task_by_task(partial(_multi_centre, most=8), always=True),
    "multi-centre-direction": _task_by_task(
        partial(_multi_centre, most=8, reduce="direction"), always=True
    ),
    "correlated": _task_by_task(_correlated),
    "nearest": _task_by_task(_of_library("NearestETFHead")),
    "nearest-gradient": _task_by_task(_of_library("NearestETFHead", gradient=True)),
    "class-mean": _task_by_task(_of_library("ClassMeanHead")),
    "prototypes": _task_by_task(_of_library("ClassMeanHead", centred=False)),
    "prototypes-bf16": _task_by_task(_of_library("PrototypeHead")),
}
"""Heads by name; "compound" has the library's default orientation. "multi-centre" gives rare
classes up to eight centres and adds their scores up, "multi-centre-direction" takes the direction
of their mean, and "one-centre" has one for every class."""

SPHERICAL = ("spherical", "spherical-chosen")
"""Those whose class vectors can be given to other classes; the second takes them from a code of as
many as there are in these dimensions."""


def is_observing(head: nn.Module) -> bool:
    """Whether a head is given the labels in training, from which its class vectors follow."""
    from etf_heads.heads import ClassMeanHead, MultiSourceHead, NearestETFHead, PrototypeHead

    kinds = ClassMeanHead | NearestETFHead | PrototypeHead
    parts = head.heads if isinstance(head, MultiSourceHead) else [head]
    return any(isinstance(part, kinds) for part in parts)
