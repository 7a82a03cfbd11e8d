"""The layers that produce a head's features: through activations, pooling, residual sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from etf_heads.heads import Head

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_GATES = ("SigmoidBackward0", "HardsigmoidBackward0", "SoftmaxBackward0")
"""Nodes of the graph behind which are weights of a sum, or channel attention, and no features."""

Layers = dict[str, list[str]]
"""Names of layers and normalisations, by the name of the head that they make the features of."""


def fixed_heads(model: nn.Module) -> dict[str, Head]:
    """The fixed heads of a model by name, those in adapters included."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Head)}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation, of PyTorch or of a library that calls it so."""
    if isinstance(module, _NORMS):
        return True
    parameters = list(module.parameters())
    own = list(module.parameters(recurse=False))
    return "norm" in type(module).__name__.lower() and len(own) == len(parameters) > 0


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a layer that its outputs are linear in, but for the bias."""
    return [p for p in module.parameters() if p.ndim >= 2]


def layers_before(model: nn.Module, example: Any = None) -> Layers:
    """The last layers and normalisations before each fixed head.

    With an example the model is run on it, and the graph of autograd is followed back from the
    features that the head got. Without, and for heads that do not run in eval mode, the order in
    which modules were registered stands for that in which they are run.
    """
    found = _registered_before(model)
    return found if example is None else found | _traced_before(model, example)


def _registered_before(model: nn.Module) -> Layers:
    found: Layers = {}
    last: list[str] = []
    for name, module in _outside_heads(model):
        if isinstance(module, Head):
            found[name] = last
        elif _makes_features(module):
            last = [name]
    return found


def _traced_before(model: nn.Module, example: Any) -> Layers:
    makers: dict[Any, str] = {}  # nodes of the graph, kept alive, and the modules they end
    seen: dict[str, list[Tensor]] = {}
    hooks = []
    for name, module in _outside_heads(model):
        if isinstance(module, Head):

            def observe(_: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                seen.setdefault(name, []).append(inputs[0])

            hooks.append(module.register_forward_pre_hook(observe))
        elif _makes_features(module):

            def mark(_m: nn.Module, _i: Any, output: Any, name: str = name) -> None:
                for tensor in output if isinstance(output, tuple | list) else [output]:
                    if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                        makers[tensor.grad_fn] = name

            hooks.append(module.register_forward_hook(mark))
    try:
        with _differentiable(model):
            if isinstance(example, Mapping):
                model(**example)
            else:
                model(*(example if isinstance(example, tuple | list) else [example]))
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: sorted({maker for h in features for maker in _makers_of(h, makers)})
        for name, features in seen.items()
    }


def _makers_of(features: Tensor, makers: dict[Any, str]) -> set[str]:
    """The modules that are met first on all ways back from the features."""
    return _met_first(features, makers, _GATES) or _met_first(features, makers)


def _met_first(features: Tensor, makers: dict[Any, str], stop: Sequence[str] = ()) -> set[str]:
    found, visited, front = set(), set(), [features.grad_fn]
    while front:
        node = front.pop()
        if node is None or node in visited or node.name() in stop:
            continue
        visited.add(node)
        if node in makers:
            found.add(makers[node])
        else:
            front += [parent for parent, _ in node.next_functions]
    return found


def _makes_features(module: nn.Module) -> bool:
    """A normalisation, or a layer with a weight matrix of its own."""
    if isinstance(module, nn.MultiheadAttention) or is_norm(module):
        return True
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2


def _outside_heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by name in the order of registration; of heads not what is in them."""
    heads: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if not name.startswith(heads):
            yield name, module
        if isinstance(module, Head):
            heads = (*heads, f"{name}." if name else "")


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """In eval mode, with gradients of everything."""
    training = {module: module.training for module in model.modules()}
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_()
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, mode in training.items():
            module.training = mode
