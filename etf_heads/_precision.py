"""Geometry is never kept below float32: in bfloat16 a Gram matrix is wrong by about 1e-3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from typing_extensions import Self


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """What a geometry of this dtype is kept in."""
    return torch.promote_types(dtype, torch.float32)


class KeepsPrecision(nn.Module):
    """A module whose buffers named in ``exact`` follow ``.to(dtype)`` down to float32 only."""

    exact: tuple[str, ...] = ()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        before = {name: getattr(self, name) for name in self.exact}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            moved = getattr(self, name)
            if moved.dtype != at_least_float32(moved.dtype):
                setattr(self, name, kept.to(device=moved.device))
        return self
