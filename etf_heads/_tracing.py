"""Who is looking: eager execution, or something that wants to see single operations."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether a compiler or a transform of torch.func looks into the operations."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
