"""Orientations that are formulas: nothing stored, and a backward pass that is one product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from etf_heads._tracing import is_traced
from etf_heads.orientation._base import Orientation

ScaledMap = Callable[[Tensor, float], Tensor]


class StructuredOrientation(Orientation):
    """An orientation without tensors: subclasses implement :meth:`raw_project`, :meth:`raw_lift`.

    These two are each other's adjoint, so each is the other's backward pass. Autograd would find
    the same gradient from the single operations, in twice the time.
    """

    def raw_project(self, features: Tensor, scale: float) -> Tensor:
        """Coordinates s Uᵀ h in a new tensor, with no rule for gradients: (..., d) to (..., n)."""
        raise NotImplementedError

    def raw_lift(self, coordinates: Tensor, scale: float | Tensor) -> Tensor:
        """Features s U z in a new tensor, in the same way: (..., n) to (..., d).

        s is a number, or one for each sample, shape (..., 1).
        """
        raise NotImplementedError

    def project(self, features: Tensor, scale: float = 1.0) -> Tensor:
        """Coordinates Uᵀ h of features h, times a number: (..., d) -> (..., n)."""
        return _linear(self.raw_project, self.raw_lift, features, scale)

    def lift(self, coordinates: Tensor) -> Tensor:
        """Features U z with the coordinates z: (..., n) -> (..., d)."""
        return _linear(self.raw_lift, self.raw_project, coordinates, 1.0)


def _linear(forward: ScaledMap, adjoint: ScaledMap, x: Tensor, scale: float) -> Tensor:
    if is_traced():
        return forward(x, scale)
    result: Tensor = _Linear.apply(x, forward, adjoint, scale)
    return result


class _Linear(torch.autograd.Function):
    """A linear map of the last dimension, differentiated by its adjoint.

    It takes ``ctx`` in forward: with ``setup_context``, which torch.func could use, a call of a
    small head costs half as much again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forward: ScaledMap, adjoint: ScaledMap, scale: float
    ) -> Tensor:
        ctx.forward, ctx.adjoint, ctx.scale = forward, adjoint, scale
        return forward(x, scale)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        return _linear(ctx.adjoint, ctx.forward, upstream[0], ctx.scale), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _linear(ctx.forward, ctx.adjoint, tangents[0], ctx.scale)
