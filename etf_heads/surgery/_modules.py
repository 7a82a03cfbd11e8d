"""Replacement of modules in a model, and the model's task outputs and class counts."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads.heads import Head
from etf_heads.surgery._adapter import HeadAdapter, TaskOutputs, refuse_labels

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module) -> Any:
    """The model inside what ``torch.compile`` and parallel training put around it."""
    while isinstance(inner := _inside(model), nn.Module):
        model = inner
    return model


def _inside(model: nn.Module) -> Any:
    return model.module if isinstance(model, _PARALLEL) else getattr(model, "_orig_mod", None)


def put_module(model: nn.Module, names: Iterable[str], module: nn.Module) -> None:
    """Set one module, a head or an adapter, under all of these names."""
    for name in names:
        model.set_submodule(name, module)


def next_in_sequence(model: nn.Module, name: str) -> str | None:
    """The name of the module that an ``nn.Sequential``, or one around it, runs after this one."""
    prefix, _, key = name.rpartition(".")
    parent = model.get_submodule(prefix)
    if not name or not isinstance(parent, nn.Sequential):
        return None
    keys = list(parent._modules)  # named_children() leaves out a module's second place
    after = keys[keys.index(key) + 1 :][:1]
    if not after:
        return next_in_sequence(model, prefix)
    return f"{prefix}.{after[0]}".removeprefix(".")


def drop_following_relu(model: nn.Module, name: str) -> None:
    """Replace a ReLU right after a head by the identity: half of an ETF's logits are negative."""
    after = next_in_sequence(model, name)
    if after is not None and isinstance(model.get_submodule(after), nn.ReLU):
        model.set_submodule(after, nn.Identity())


def adapted(layer: nn.Module, head: nn.Module, *, channels_first: bool) -> HeadAdapter:
    """A head in an adapter, for the place of a layer."""
    if isinstance(layer, HeadAdapter):
        dims = layer.spatial_dims
    else:
        dims = {nn.Conv1d: 1, nn.Conv3d: 3}.get(type(layer), 2)  # type: ignore[arg-type]
    return HeadAdapter(head, channels_first=channels_first, spatial_dims=dims)


def head_of(module: nn.Module) -> Any:
    """The head inside an adapter, or the module itself."""
    return module.head if isinstance(module, HeadAdapter) else module


def like_of(layer: nn.Module) -> Tensor:
    """An empty tensor of the device and floating dtype of a layer."""
    module = head_of(layer)
    device = None
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            return tensor.detach().new_empty(0)
        device = tensor.device  # quantised weights have no dtype to follow
    return torch.empty(0, device=device)


def returns_tasks(module: nn.Module) -> bool:
    """Whether the logits of a head come by task."""
    return isinstance(module, Head) and not module.tasks.single


def task_outputs(model: nn.Module) -> TaskOutputs | None:
    """The hook that parts the model's logits by task."""
    return next((h for h in model._forward_hooks.values() if isinstance(h, TaskOutputs)), None)


def set_task_outputs(model: nn.Module, outputs: TaskOutputs | None) -> None:
    """Return logits by task, or (None) as the model makes them."""
    for key, hook in list(model._forward_hooks.items()):
        if isinstance(hook, TaskOutputs):
            del model._forward_hooks[key]
    for key, hook in list(model._forward_pre_hooks.items()):
        if hook is refuse_labels:
            del model._forward_pre_hooks[key], model._forward_pre_hooks_with_kwargs[key]
    if outputs is not None:
        model.register_forward_hook(outputs)
        model.register_forward_pre_hook(refuse_labels, with_kwargs=True)


def update_class_count(model: nn.Module, before: int, after: int) -> None:
    """Update the number of classes that the model states, where it states the former one."""
    config = getattr(model, "config", None)
    for owner, name in ((model, "num_classes"), (model, "num_labels"), (config, "num_labels")):
        if before != after and getattr(owner, name, None) == before:
            setattr(owner, name, after)
