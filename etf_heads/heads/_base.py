"""What every head is, and every fixed one: ``logits = s * C (Uᵀ h) (+ b)``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from etf_heads._precision import as_autocast, check_dtype, gathered
from etf_heads._recognised import Recognised, told
from etf_heads._spec import Specified, class_name
from etf_heads._tasks import Tasks
from etf_heads._tracing import call_recorded, is_symbolic
from etf_heads.codes import Code
from etf_heads.heads._feature_norm import (
    FeatureNorm,
    feature_norm,
    folded,
    norm_name,
    normalised,
)
from etf_heads.orientation import Orientation, StructuredOrientation


class Head(Recognised, Specified):
    r"""A classifier whose class vectors W = s F are not learned; subclasses give the frame F.

    Subclasses implement :meth:`scores` and :meth:`frame`, give the logits the shape that their
    users expect, and get everything else from here.

    Args:
        in_features: d.
        tasks: the tasks that the rows of F belong to.
        bias: whether to learn a bias a class, starting at zero.
        scale: s, positive: the length of class vectors of a frame with unit rows.
        learn_scale: whether s is a parameter (one number) that starts there.
        feature_norm: normalisation of the features before the head, see :func:`feature_norm`.
        device: of what little the head stores.
        dtype: of the same, and of :attr:`weight`.

    Attributes:
        one_task: whether logits come as one tensor, rather than a dict or tuple of them.

    Raises:
        ValueError: if the scale is not positive.
    """

    one_task = True
    _like: Tensor

    def __init__(
        self,
        in_features: int,
        tasks: Tasks,
        *,
        bias: bool = False,
        scale: float = 1.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_dtype(dtype)
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a positive finite number, got {scale!r}")
        self.tasks = tasks
        self.in_features = in_features
        self.out_features = tasks.total
        self.norm = _make_norm(feature_norm, in_features, device, dtype)
        # An empty tensor that .to(...) moves along: the only way for a module without tensors
        # to know which device and dtype its dense form should have.
        self.register_buffer("_like", torch.empty(0, device=device, dtype=dtype), persistent=False)
        # One entry, not none: fully_shard refuses scalar parameters.
        self.scale = nn.Parameter(self._like.new_tensor([scale])) if learn_scale else float(scale)
        self._initial_scale = float(scale)
        self.bias = nn.Parameter(self._like.new_zeros(self.out_features)) if bias else None

    def options(self) -> dict[str, Any]:
        """The arguments of the constructor that all heads share, but for the device."""
        learned = isinstance(self.scale, nn.Parameter)
        return {
            "bias": self.bias is not None,
            "scale": self._initial_scale if learned else self.scale,
            "learn_scale": learned,
            "feature_norm": norm_name(self.norm, self.in_features),
            "dtype": self._like.dtype,
        }

    def arguments(self) -> dict[str, Any]:
        """What the constructor takes, but for the device."""
        own = super().arguments()
        return own | {name: value for name, value in self.options().items() if name in own}

    def definition(self) -> dict[str, Any]:
        """What the logits depend on and no tensor of ``state_dict`` tells, as JSON values."""
        norm = norm_name(self.norm, self.in_features)
        return {
            "class": class_name(self),
            "tasks": {"tasks": self.tasks.pack(self.tasks.sizes)},
            "scale": "learned" if isinstance(self.scale, nn.Parameter) else self.scale,
            "feature_norm": repr(norm) if isinstance(norm, nn.Module) else norm,
        }

    def scores(self, features: Tensor) -> Tensor:
        """Products F h: (..., d) -> (..., sum K_t)."""
        raise NotImplementedError

    def frame(self) -> Tensor:
        """F itself, shape (sum K_t, d), in the precision it is kept in."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Set what is learned to its start, and rebuild what is stored from its definition."""
        with torch.no_grad():
            if isinstance(self.scale, nn.Parameter):
                self.scale.fill_(self._initial_scale)
            if self.bias is not None:
                self.bias.zero_()

    def all_logits(self, features: Tensor) -> Tensor:
        """Logits of all tasks side by side: (..., d) -> (..., sum K_t)."""
        return self._finish(self.scores(self.prepare(features)))

    def all_softmax_logits(self, features: Tensor) -> Tensor:
        """The same up to a constant a task, if that costs less.

        A softmax does not see the constant, nor does the gradient of a loss on it.
        """
        return self.all_logits(features)

    @property
    def softmax_geometry(self) -> tuple[StructuredOrientation, float] | None:
        """For losses that need no logits; None for heads that do."""
        return None

    def prepare(self, features: Tensor) -> Tensor:
        """Features as :meth:`scores` takes them: of the right size, normalised."""
        self._check_size(features)
        return features if self.norm is None else normalised(self.norm, features)

    def _check_size(self, features: Tensor) -> None:
        if not is_symbolic(features) and features.shape[-1] != self.in_features:
            raise ValueError(
                f"features have {features.shape[-1]} entries, the head takes {self.in_features}"
            )

    def _finish(self, logits: Tensor) -> Tensor:
        if not isinstance(self.scale, float):  # a parameter, or what stands for it in a trace
            logits = logits * self.scale.to(logits.dtype)
        elif self.scale != 1.0:
            logits = logits * self.scale
        if self.bias is not None:
            logits = logits + self.bias.to(logits.dtype)
        return as_autocast(logits)

    @property
    def weight(self) -> Tensor:
        """Dense class vectors W = s F, shape (sum K_t, d), made on request.

        Where FSDP2 has sharded what is learned, all processes ask for it together.
        """
        scale = gathered(self.scale) if isinstance(self.scale, nn.Parameter) else self.scale
        return gathered(self.frame()).to(self._like.dtype) * scale

    def task_weight(self, task: str | int) -> Tensor:
        """Dense class vectors of one task, shape (K_t, d), made on request."""
        return self.weight[self.tasks.slices[self.tasks.index(task)]]

    def _linears(self) -> list[nn.Linear]:
        """One ordinary linear layer a task, with the logits that this head has in eval mode."""
        weight, bias = self._folded()
        linears = []
        for rows in self.tasks.slices:
            linear = nn.Linear(
                self.in_features,
                rows.stop - rows.start,
                bias=bias is not None,
                device="meta",
                dtype=weight.dtype,
            )
            linear.weight = nn.Parameter(weight[rows].clone())
            if bias is not None:
                linear.bias = nn.Parameter(bias[rows].clone())
            linears.append(linear)
        return linears

    def _linears_by_task(self) -> nn.ModuleDict:
        try:
            return nn.ModuleDict(dict(zip(self.tasks.labels, self._linears(), strict=True)))
        except KeyError as error:
            raise ValueError(
                f"a task has a name that no module can have ({error}): take another, or no names"
            ) from error

    @torch.no_grad()
    def _folded(self) -> tuple[Tensor, Tensor | None]:
        weight, norm = self.weight, self.norm
        bias = None if self.bias is None else gathered(self.bias)
        if norm is None:
            return weight, bias
        weight, shift = folded(norm, weight)
        return weight, shift if bias is None else shift + bias

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        learned = "learned from " if isinstance(self.scale, nn.Parameter) else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, scale={learned}{self.options()['scale']:g}"
        )


class FixedHead(Head):
    r"""A classifier whose class vectors :math:`W = s\, C U^\top` are given, not learned.

    Args:
        code: C, which angles the class vectors make.
        orientation: U, where they stand in feature space.
        tasks: the tasks that the rows of C belong to.
        options: as in :class:`Head`.

    Raises:
        ValueError: if code and orientation do not fit, or the scale is not positive.
    """

    def __init__(self, code: Code, orientation: Orientation, tasks: Tasks, **options: Any) -> None:
        if code.columns != orientation.columns:
            raise ValueError(
                f"the code has {code.columns} columns, the orientation {orientation.columns}"
            )
        if code.rows != tasks.total:
            raise ValueError(f"the code has {code.rows} rows, the tasks {tasks.total} classes")
        super().__init__(orientation.in_features, tasks, **options)
        self.orientation = orientation
        self.code = code

    @classmethod
    def from_arguments(cls, **arguments: Any) -> Self:
        """A head of this class from its parts: how a subclass came to them does not matter."""
        head = cls.__new__(cls)
        FixedHead.__init__(head, **arguments)
        return head

    def arguments(self) -> dict[str, Any]:
        """The parts, and the options."""
        parts = {"code": self.code, "orientation": self.orientation, "tasks": self.tasks}
        return parts | self.options()

    def definition(self) -> dict[str, Any]:
        """That of a head made of these parts, whatever class made it."""
        parts = {"code": told(self.code), "orientation": told(self.orientation)}
        return super().definition() | {"class": FixedHead.__name__} | parts

    def scores(self, features: Tensor) -> Tensor:
        """Products C Uᵀ h: (..., d) -> (..., sum K_t)."""
        return self.code(self.orientation(features))

    def all_softmax_logits(self, features: Tensor) -> Tensor:
        """Logits up to a constant a task: for a simplex code, coordinates times a number."""
        if self.code.softmax_scale is None or isinstance(self.scale, nn.Parameter):
            return self.all_logits(features)
        scale = self.scale * self.code.softmax_scale
        logits = self.orientation.project(self.prepare(features), scale)
        return logits if self.bias is None else logits + self.bias.to(logits.dtype)

    @property
    def softmax_geometry(self) -> tuple[StructuredOrientation, float] | None:
        """U and s' such that a softmax of the logits is one of s' Uᵀ h, if that is all there is."""
        if (
            self.code.softmax_scale is None
            or isinstance(self.scale, nn.Parameter)
            or self.bias is not None
            or not isinstance(self.orientation, StructuredOrientation)
        ):
            return None
        return self.orientation, self.scale * self.code.softmax_scale

    def frame(self) -> Tensor:
        """C Uᵀ, shape (sum K_t, d), made on request."""
        return self.code.expand(self.orientation.matrix(device=self._like.device)).mT


class MultiTaskFixedHead(FixedHead):
    """A fixed head of several tasks: takes what :class:`FixedHead` takes."""

    one_task = False

    def forward(self, features: Tensor) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """Logits of each task: (..., d) -> (..., K_t)."""
        if (recorded := call_recorded(self, features)) is not None:
            return recorded
        logits = self.all_logits(features).split(self.tasks.sizes, dim=-1)
        return self.tasks.pack([logits[t] for t in range(len(self.tasks))])

    def to_linear(self) -> nn.ModuleDict:
        """One ``nn.Linear`` a task with the same logits, by task name (or "0", "1", ...).

        A "batch" normalisation is folded in with its running statistics (as in eval mode).

        Raises:
            ValueError: if another normalisation stands before the head, or a task has a name that
                no module can have, such as "a.b".
        """
        return self._linears_by_task()


def _make_norm(
    kind: FeatureNorm,
    in_features: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module | None:
    # A method parameter of the same name hides the function inside __init__.
    return feature_norm(kind, in_features, device=device, dtype=dtype)
