"""The head of any code in any orientation: ``logits = s * C (Uᵀ h) (+ b)``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from etf_heads._precision import as_autocast
from etf_heads._tasks import Tasks, positive_int
from etf_heads.codes import AssignedCode, Code
from etf_heads.heads._base import Head
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.orientation import OrientationSpec, make_orientation


class FixedHead(Head):
    r"""A classifier whose class vectors :math:`W = s\, C U^\top` are given, not learned.

    Any :class:`~etf_heads.codes.Code` makes a head: the code says which tasks it is for, and
    takes as many columns as suit the feature space. :class:`~etf_heads.ETFHead`,
    :class:`~etf_heads.CompoundETFHead` and :class:`~etf_heads.CorrelatedETFHead` choose a code
    and are heads of this kind.

    Args:
        in_features: d, at least the number of columns that the code needs.
        code: C, the angles between the class vectors.
        orientation: U, the position of the code in feature space: "tiled" (default), "hadamard",
            "canonical", "random:SEED", "learned" (with an optimiser of geoopt), a matrix of
            orthonormal columns, or an :class:`~etf_heads.orientation.Orientation`.
        bias: whether to learn a bias a class, starting at zero.
        scale: s, the length of class vectors of a code with unit rows.
        learn_scale: learn s (one number), from there.
        feature_norm: "batch", "layer", "unit", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``.

    Attributes:
        code: as it fits the feature space.
        orientation: as an object.

    Shape:
        features (..., d) to one tensor of logits (..., K_t) a task: in a dict when the tasks of
        the code have names, in a tuple when they are listed, by itself for one task given by its
        class count.

    Raises:
        ValueError: if code, orientation and in_features do not fit, or an option is not one of
            those named.

    Example:
        >>> from etf_heads.codes import SimplexCode
        >>> head = FixedHead(64, SimplexCode({"shape": 5, "colour": 3}), "hadamard", scale=4.0)
        >>> {task: tuple(logits.shape) for task, logits in head(torch.randn(8, 64)).items()}
        {'shape': (8, 5), 'colour': (8, 3)}
    """

    def __init__(
        self,
        in_features: int,
        code: Code,
        orientation: OrientationSpec | None = None,
        bias: bool = False,
        *,
        scale: float = 1.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        in_features = positive_int(in_features, "in_features")
        made = orientation is None or isinstance(orientation, str)
        if made:
            code = code.fitting(in_features)
        basis = make_orientation(orientation, in_features, code.columns, device=device, dtype=dtype)
        if not made:  # it has columns of its own
            code = code.fitting(in_features, basis.columns)
            if code.columns != basis.columns:
                raise ValueError(
                    f"the code has {code.columns} columns, the orientation {basis.columns}"
                )
        super().__init__(
            in_features,
            code.tasks,
            bias=bias,
            scale=scale,
            learn_scale=learn_scale,
            feature_norm=feature_norm,
            device=device,
            dtype=dtype,
        )
        self.orientation = basis
        # Not "code": torch puts the source of traced modules on an attribute of that name.
        self.codebook = on_device(code, device)

    @property
    def code(self) -> Code:
        """C, the angles between the class vectors."""
        return self.codebook

    @classmethod
    def from_arguments(cls, tasks: Tasks | None = None, **arguments: Any) -> Self:
        """A head of this class from its parts, not from the constructor's arguments.

        Args:
            tasks: in specifications of former versions, where it repeats the tasks of the code.
            arguments: code, orientation and options.
        """
        code, orientation = arguments["code"], arguments["orientation"]
        if tasks is not None and tasks.sizes != code.tasks.sizes:
            raise ValueError(f"the code is of {code.tasks}, the head of {tasks}")
        head = cls.__new__(cls)
        FixedHead.__init__(head, orientation.in_features, **arguments)
        return head

    def arguments(self) -> dict[str, Any]:
        """The parts, and the options."""
        return {"code": self.codebook, "orientation": self.orientation} | self.options()

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *metadata_strict_and_problems: Any
    ) -> None:
        # Former versions called the code "code" in checkpoints.
        former = f"{prefix}code."
        for key in [key for key in state_dict if key.startswith(former)]:
            state_dict[f"{prefix}codebook.{key.removeprefix(former)}"] = state_dict.pop(key)
        # Which class has which vector is data: a head of another order takes it over, unless the
        # checkpoint is of another head altogether.
        code, unexpected = self.codebook, metadata_strict_and_problems[-2]
        known = len(unexpected)
        if f"{prefix}codebook.assignment" in state_dict and type(code) is not AssignedCode:
            self.codebook = AssignedCode(code)
        super()._load_from_state_dict(state_dict, prefix, *metadata_strict_and_problems)
        if len(unexpected) > known:
            self.codebook = code

    def scores(self, features: Tensor) -> Tensor:
        """Products C Uᵀ h: (..., d) -> (..., sum K_t)."""
        return self.codebook(self.orientation(features))

    def all_logits(self, features: Tensor) -> Tensor:
        """Logits of all tasks side by side: (..., d) -> (..., sum K_t)."""
        factor = self.codebook.softmax_scale
        if factor is None:
            return super().all_logits(features)
        return as_autocast(self._multiples(features, factor, self.codebook.tasks.sizes[0]))

    def all_softmax_logits(self, features: Tensor) -> Tensor:
        """Logits up to a constant a task: for a simplex code, coordinates times a number."""
        factor = self.codebook.softmax_scale
        if factor is None:
            return super().all_logits(features)
        return self._multiples(features, factor, 0)

    def _multiples(self, features: Tensor, factor: float, centred: int) -> Tensor:
        """Logits of a code that is a factor, with or without the centring."""
        if isinstance(self.scale, float):
            factor *= self.scale
        logits = self.orientation(self.prepare(features), factor, centred)
        return self._affine(logits, scaled=True)

    def _best(self, features: Tensor, k: int, position: int) -> tuple[Tensor, Tensor]:
        if self.bias is not None:
            values, indices = self.all_logits(features)[..., self.tasks.slices[position]].topk(k)
            return values, indices
        coordinates = self.coordinates(features)
        flat = coordinates.reshape(-1, coordinates.shape[-1])
        values, indices = self.codebook.topk(flat, k, position)
        shape = (*features.shape[:-1], k)
        return values.to(coordinates.dtype).reshape(shape), indices.reshape(shape)

    @property
    def streams(self) -> bool:
        """Whether losses and :meth:`topk` take the code basis by basis and make no logits."""
        return self.codebook.streams and self.bias is None

    def coordinates(self, features: Tensor) -> Tensor:
        """Coordinates s Uᵀ h, of which C makes the logits: (..., d) -> (..., columns)."""
        prepared = self.prepare(features)
        if isinstance(self.scale, float):
            return self.orientation.project(prepared, self.scale)
        return self.orientation.project(prepared) * self.scale

    def frame(self) -> Tensor:
        """C Uᵀ, shape (sum K_t, d), made on request."""
        return self.codebook.expand(self.orientation.matrix(device=self._like.device)).mT

    def frame_rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of C Uᵀ: indices (...) of classes -> (..., d)."""
        return self.orientation.lift(self.codebook.vectors(indices, dtype=dtype))


def on_device(code: Code, device: torch.device | str | None) -> Code:
    """The code on a device: itself if it is there, since it may be in use elsewhere, or a copy."""
    if device is None or all(b.device == torch.device(device) for b in code.buffers()):
        return code
    return copy.deepcopy(code).to(device=device)
