"""Orientations that are formulas: nothing stored, and a backward pass that is one product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from etf_heads._tracing import call_recorded, is_recorded, is_traced
from etf_heads.orientation._base import Orientation, centre

Options = tuple[float, int]
"""A factor, and the number of neighbouring coordinates to centre, 0 for none."""

LinearMap = Callable[[Tensor, float, int], Tensor]
"""Of a tensor and the options."""


class StructuredOrientation(Orientation):
    """An orientation without tensors: subclasses implement :meth:`raw_project`, :meth:`raw_lift`.

    These two are each other's adjoint, so each is the other's backward pass. Autograd would find
    the same gradient from the single operations, in twice the time.
    """

    def raw_project(self, features: Tensor, scale: float) -> Tensor:
        """Coordinates s Uᵀ h in a new tensor, with no rule for gradients: (..., d) to (..., n)."""
        raise NotImplementedError

    def raw_lift(self, coordinates: Tensor, scale: float) -> Tensor:
        """Features s U z in a new tensor, in the same way: (..., n) to (..., d)."""
        raise NotImplementedError

    def project(self, features: Tensor, scale: float = 1.0) -> Tensor:
        """Coordinates Uᵀ h of features h, times a number: (..., d) -> (..., n)."""
        return _linear(self._project, self._lift, features, (scale, 0))

    def lift(self, coordinates: Tensor) -> Tensor:
        """Features U z with the coordinates z: (..., n) -> (..., d)."""
        return _linear(self._lift, self._project, coordinates, (1.0, 0))

    def forward(self, features: Tensor, scale: float = 1.0, centred: int = 0) -> Tensor:
        """Coordinates s Uᵀ h, and on request centred, in one step of autograd."""
        if (recorded := call_recorded(self, features, scale, centred)) is not None:
            return recorded
        return _linear(self._project, self._lift, features, (scale, centred))

    def _project(self, features: Tensor, scale: float, centred: int) -> Tensor:
        coordinates = self.raw_project(features, scale)
        return centre_(coordinates, centred) if centred else coordinates

    def _lift(self, coordinates: Tensor, scale: float, centred: int) -> Tensor:
        return self.raw_lift(centre(coordinates, centred) if centred else coordinates, scale)


def _linear(forward: LinearMap, adjoint: LinearMap, x: Tensor, options: Options) -> Tensor:
    differentiated = torch.is_grad_enabled() or forward_ad._current_level >= 0
    if is_traced() or not differentiated:
        return forward(x, *options)
    result: Tensor = _Linear.apply(x, forward, adjoint, options)
    return result


class _Linear(torch.autograd.Function):
    """A linear map of the last dimension, differentiated by its adjoint.

    It takes ``ctx`` in forward: with ``setup_context``, which torch.func could use, a call of a
    small head costs half as much again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forward: LinearMap, adjoint: LinearMap, options: Options
    ) -> Tensor:
        ctx.maps, ctx.options = (forward, adjoint), options
        return forward(x, *options)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        forward, adjoint = ctx.maps
        return _linear(adjoint, forward, upstream[0], ctx.options), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        forward, adjoint = ctx.maps
        return _linear(forward, adjoint, tangents[0], ctx.options)


def centre_(coordinates: Tensor, size: int) -> Tensor:
    """:func:`centre` in place, but where what is written into views gets lost."""
    if is_recorded():
        return centre(coordinates, size)
    one = size == coordinates.shape[-1]
    grid = coordinates if one else coordinates.unflatten(-1, (-1, size))
    grid.sub_(grid.mean(-1, keepdim=True))
    return coordinates
