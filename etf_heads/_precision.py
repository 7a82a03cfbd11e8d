"""Precision of geometry: at least float32, since bfloat16 Gram matrices are wrong by about 1e-3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from etf_heads._tracing import is_symbolic

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_dtype(dtype: torch.dtype | None) -> None:
    """ValueError for a dtype that heads do not support."""
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(
            f"dtype={dtype} is not possible: heads take {', '.join(map(str, _DTYPES))}, or None "
            "for torch's default; labels and counts are integers, features and heads are not"
        )


def as_autocast(logits: Tensor) -> Tensor:
    """Logits in the dtype in which ``nn.Linear`` gives them: under autocast in that of autocast.

    Outside autocast, and in float64, they stay as they are.
    """
    if is_symbolic(logits) or not torch._C._is_any_autocast_enabled():
        return logits
    device = logits.device.type
    if logits.dtype == torch.float64 or device == "meta" or not torch.is_autocast_enabled(device):
        return logits
    return logits.to(torch.get_autocast_dtype(device))


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which FSDP2 or tensor parallelism keeps a part in each process."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a geometry is kept when this one is asked for."""
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
