"""Detection of tracers that must see every single operation."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import nn


def is_traced() -> bool:
    """Whether a compiler or a transform of torch.func looks into the operations."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def is_watched() -> bool:
    """The same, or whether a mode of ``torch.utils._python_dispatch`` does."""
    return is_traced() or torch._C._len_torch_dispatch_stack() > 0


def is_recorded() -> bool:
    """Whether ``torch.jit.trace`` records, on which ``torch.onnx.export(dynamo=False)`` is built.

    What is written into views of a tensor is not in the ONNX model, with no word of it.
    """
    return torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def is_symbolic(value: Any) -> bool:
    """Whether ``torch.fx.symbolic_trace`` passes a value that is not known yet."""
    return isinstance(value, torch.fx.Proxy)


def call_recorded(module: nn.Module, *inputs: Any) -> Any:
    """The call of a module as one node of a symbolic trace, as those of ``torch.nn`` are.

    None outside ``torch.fx.symbolic_trace``, and for the module that is traced itself.
    """
    if not is_symbolic(inputs[0]):
        return None
    tracer = inputs[0].tracer
    if not isinstance(tracer, torch.fx.Tracer) or tracer.root is module:
        return None
    return tracer.create_proxy("call_module", tracer.path_of_module(module), inputs, {})
