"""Memory and operations of a model in training and storage, counted without its values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OptimizerSpec = str | Callable[[list[nn.Parameter]], Optimizer]
"""A name in ``torch.optim``, a class, or a function from parameters to an optimiser."""


@dataclass(frozen=True)
class ModelCosts:
    """Counts and bytes of one model; see :func:`model_costs`.

    Attributes:
        parameters: numbers in all parameters, shared ones once.
        trainable_parameters: those that require a gradient.
        gradient_bytes: of the gradients of these.
        optimizer_state_bytes: of all tensors in the optimiser's state, after a step.
        checkpoint_bytes: of all tensors in ``state_dict``, shared ones once: what safetensors
            writes, but for its header of a few kilobytes.
        optimizer: which optimiser was counted.
    """

    parameters: int
    trainable_parameters: int
    gradient_bytes: int
    optimizer_state_bytes: int
    checkpoint_bytes: int
    optimizer: str


def model_costs(model: nn.Module, optimizer: OptimizerSpec = torch.optim.AdamW) -> ModelCosts:
    """Count what a model takes, exactly, on any device; nothing is copied or computed.

    The optimiser's state is what the optimiser itself makes in a step on tensors that have shapes
    but no memory, so it is right for every optimiser that can take a step, of any library.

    Args:
        model: any model; one on the meta device, which has no weights at all, too.
        optimizer: as in :func:`savings`.

    Raises:
        ValueError: as :func:`savings`.

    Example:
        >>> costs = model_costs(nn.Linear(100, 10, device="meta"), "SGD")
        >>> costs.parameters, costs.gradient_bytes, costs.optimizer_state_bytes
        (1010, 4040, 0)
    """
    parameters = list(model.parameters())
    if any(is_lazy(parameter) for parameter in parameters):
        raise ValueError(
            f"{type(model).__name__} has lazy parameters, which have no shape yet: run one batch "
            "through the model first"
        )
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return ModelCosts(
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in trainable),
        gradient_bytes=sum(p.nbytes for p in trainable),
        optimizer_state_bytes=_state_bytes(trainable, optimizer),
        checkpoint_bytes=_checkpoint_bytes(model.state_dict()),
        optimizer=_in_words(optimizer),
    )


def _checkpoint_bytes(state: Mapping[str, Any]) -> int:
    """Bytes of the tensors of a state, each view of a storage once."""
    views = {}
    for tensor in state.values():
        if isinstance(tensor, Tensor):
            # Storages of the meta device have no address: they are distinguished as objects.
            storage = tensor.untyped_storage()._cdata
            views[storage, tensor.storage_offset(), tensor.nbytes] = tensor.nbytes
    return sum(views.values())


class _AnyNumber(TorchDispatchMode):
    """Gives a number where an optimiser asks a tensor without memory for its value.

    Step counts and norms decide how far a step goes, not what the state holds. The number is none
    at which a bias correction would divide by zero.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.5 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


def _state_bytes(trainable: list[nn.Parameter], optimizer: OptimizerSpec) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415 (slow to import)

    make = _factory(optimizer)
    if not trainable:
        return 0  # optimisers refuse an empty list
    with FakeTensorMode(), _AnyNumber():  # type: ignore[no-untyped-call]
        parameters = [nn.Parameter(torch.empty(p.shape, dtype=p.dtype)) for p in trainable]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        try:
            stepped = make(parameters)
            stepped.step()
        except Exception as error:
            raise ValueError(
                f"optimizer={_in_words(optimizer)} takes no step on these parameters: {error}. "
                "Give a function that makes an optimiser for them, such as "
                "lambda p: torch.optim.AdamW(p); those that need a closure cannot be counted"
            ) from error
    return sum(leaf.nbytes for leaf in tree_leaves(dict(stepped.state)) if isinstance(leaf, Tensor))


def _factory(optimizer: OptimizerSpec) -> Callable[[list[nn.Parameter]], Optimizer]:
    if isinstance(optimizer, str):
        classes = {name: v for name, v in vars(torch.optim).items() if isinstance(v, type)}
        known = [n for n, v in classes.items() if issubclass(v, Optimizer) and v is not Optimizer]
        if optimizer not in known:
            raise ValueError(
                f"optimizer={optimizer!r} is none of torch.optim's: {', '.join(sorted(known))}; "
                "or give a class or a function from parameters to an optimiser"
            )
        return getattr(torch.optim, optimizer)
    if not callable(optimizer):
        raise ValueError(
            f"optimizer must be a name, a class or a function from parameters to an optimiser, "
            f"got {optimizer!r:.80}"
        )
    return optimizer


def _in_words(optimizer: OptimizerSpec) -> str:
    if isinstance(optimizer, str):
        return optimizer
    if isinstance(optimizer, functools.partial):
        options = ", ".join(f"{name}={value!r}" for name, value in optimizer.keywords.items())
        return f"{_in_words(optimizer.func)}({options})"
    return getattr(optimizer, "__name__", repr(optimizer))
