"""Class vectors and biases as users give them: dense, one a task, or a module that has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._tasks import Tasks

Weights = Tensor | nn.Module | Mapping[str, "Tensor | nn.Module"] | Sequence["Tensor | nn.Module"]
"""Dense (sum K_t, d) class vectors, one (K_t, d) tensor a task, or modules with a ``weight``."""

Biases = Tensor | Mapping[str, Tensor] | Sequence[Tensor]
"""A (sum K_t,) tensor, or one (K_t,) tensor a task."""


def class_vectors(
    weight: Weights,
    tasks: Tasks,
    num_features: int,
    device: torch.device,
    *,
    own_forward: bool = False,
) -> tuple[Tensor, ...]:
    """One (K_t, d) float64 tensor a task, or ValueError.

    Args:
        weight: as users give it.
        tasks: whose class vectors they are.
        num_features: d.
        device: of the result.
        own_forward: whether features pass through the modules themselves; if not, modules that
            normalise them are refused.
    """
    if not own_forward:
        given = [weight] if _has_weight(weight) or isinstance(weight, Tensor) else entries(weight)
        for part in given.values() if isinstance(given, Mapping) else given:
            refuse_normalising(part)
    return _split(weight, "weight", tasks, (num_features,), device)


def refuse_normalising(module: Any) -> None:
    """ValueError for a module whose class vectors meet features only once normalised."""
    norm = _attribute(module, "norm")
    if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
        raise ValueError(
            f"weight is a {type(module).__name__} that normalises its features "
            f"({type(norm).__name__}), which statistics of features as they are cannot take into "
            f"account: update the measure with head.prepare(features) and pass head.weight"
        )


def class_biases(
    bias: Biases | None, weight: Weights, tasks: Tasks, device: torch.device
) -> tuple[Tensor, ...]:
    """One (K_t,) float64 tensor a task: those given, else the modules' own, else zeros."""
    if bias is None and isinstance(weight, Tensor):
        bias = torch.zeros(tasks.total)
    elif bias is None and _has_weight(weight):
        own = _attribute(weight, "bias")
        bias = torch.zeros(tasks.total) if own is None else own
    elif bias is None:
        own = [_attribute(entry, "bias") for entry in tasks.unpack(entries(weight), "weight")]
        sizes = zip(own, tasks.sizes, strict=True)
        bias = [torch.zeros(size) if value is None else value for value, size in sizes]
    return _split(bias, "bias", tasks, (), device)


def dense_weight(
    weight: Tensor | nn.Module, shape: tuple[int, int], device: torch.device
) -> Tensor:
    """One float64 matrix of this shape, or ValueError."""
    refuse_normalising(weight)
    return _checked(weight, "weight", "weight", shape, device)


def _split(
    given: Any, attribute: str, tasks: Tasks, trailing: tuple[int, ...], device: torch.device
) -> tuple[Tensor, ...]:
    if isinstance(given, Tensor) or isinstance(_attribute(given, attribute), Tensor):
        whole = _checked(given, attribute, attribute, (tasks.total, *trailing), device)
        return tuple(whole[rows] for rows in tasks.slices)
    parts = tasks.unpack(entries(given), attribute)
    return tuple(
        _checked(entry, attribute, f"{attribute}[{name!r}]", (size, *trailing), device)
        for entry, size, name in zip(parts, tasks.sizes, tasks.labels, strict=True)
    )


def entries(given: Any) -> Any:
    """Containers of modules become the mapping or list that they hold."""
    if isinstance(given, nn.ModuleDict):
        return dict(given.items())
    if isinstance(given, nn.ModuleList):
        return list(given)
    if not isinstance(given, (Mapping, Sequence)) or isinstance(given, str):
        raise ValueError(
            f"weight must be a tensor, a module with a weight, or one of these for each task; "
            f"got {type(given).__name__}"
        )
    return given


def _has_weight(given: Any) -> bool:
    return isinstance(_attribute(given, "weight"), Tensor)


def _attribute(given: Any, name: str) -> Any:
    return getattr(given, name, None) if isinstance(given, nn.Module) else None


def _checked(
    given: Any, attribute: str, argument: str, shape: tuple[int, ...], device: torch.device
) -> Tensor:
    value = _attribute(given, attribute) if isinstance(given, nn.Module) else given
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(
            f"{argument} must be a floating tensor of shape {shape} or a module that has one, "
            f"got {type(given).__name__}"
        )
    if tuple(value.shape) != shape:
        raise ValueError(f"{argument} has shape {tuple(value.shape)}, expected {shape}")
    value = value.detach().to(device).to(torch.float64)
    if not value.isfinite().all():
        raise ValueError(f"{argument} has NaN or infinite entries")
    return value
