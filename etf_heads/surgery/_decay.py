"""Weight decay for networks with fixed heads: what the removed head took part in, given back."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from etf_heads.surgery._before import (
    Layers,
    fixed_heads,
    is_norm,
    layers_before,
    matrices,
)
from etf_heads.surgery._modules import unwrapped

_log = logging.getLogger(__name__)


def decay_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    multiplier: float = 2.0,
    before: str | Sequence[str] | None = None,
    example: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    decay_vectors: bool = False,
) -> list[dict[str, Any]]:
    r"""Parameter groups that give the layer before a fixed head the decay of the removed head.

    A learned head behind a linear layer is a product :math:`W_2 W_1` of two decayed matrices, so
    that its map shrinks at twice the rate of either: by :math:`(1 - \eta\lambda)^2` in a step of
    SGD. A fixed head leaves one of them, and the same network is regularised half as much. These
    groups give :math:`W_1` its own decay and the removed head's::

        optimiser = torch.optim.AdamW(decay_groups(model, 0.05), lr=1e-3)

    Which lever to take:

    - **This one, with multiplier 2, always** where a linear layer or a convolution makes the
      features, through activations, dropout and pooling. With few images a multiplier from 2 to
      20 is worth a search: accuracy follows the sum of the multipliers along the linear path, of
      learned and fixed heads alike. With augmentation 2 is enough.
    - **The scale of the head** where a normalisation makes the features (ResNets, vision
      transformers, ``feature_norm``): it fixes their length, and the decay of the layers before
      it no longer shrinks the map, but only changes their effective learning rate. A larger scale
      (3 has been good behind batch normalisation) mends part of it. A warning says so, and
      nothing is multiplied there unless ``before`` names it.
    - :class:`~etf_heads.losses.FeaturePenalty` where the layers before cannot be given a group
      of their own, or several tasks need different strengths.

    Args:
        model: with fixed heads; inside ``torch.compile`` or parallel wrappers or not.
        weight_decay: :math:`\lambda` of all other matrices and convolutions, as the optimiser
            takes it.
        multiplier: of the layers before the heads: 2 for their own decay and the removed head's.
        before: name or names of these layers, where you know better or the head is not inside the
            model.
        example: an input of the model (a tensor, a tuple of arguments or a mapping of them), which
            is run once, in eval mode, to follow the features back to the layers that make them;
            where they are a sum (residual connections), to all of its addends. Without it the
            last layer registered before a head stands for the last one run.
        decay_vectors: whether biases, normalisations and other vectors decay as well. By default
            they do not, nor what timm's ``model.no_weight_decay()`` names.

    Returns:
        Groups with ``params`` and ``weight_decay`` for any optimiser of PyTorch; every parameter
        of the model is in exactly one. Layers found are logged (level INFO).

    Raises:
        ValueError: if a number is negative, the model has no fixed head and ``before`` is None,
            no layer is found, or ``before`` names no layer with a weight matrix.

    Example:
        >>> import torch
        >>> from etf_heads import ETFHead
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), ETFHead(16, 3))
        >>> for group in decay_groups(model, 0.1, example=torch.randn(2, 8)):
        ...     print(group["weight_decay"], [tuple(p.shape) for p in group["params"]])
        0.1 [(16, 8)]
        0.2 [(16, 16)]
        0.0 [(16,), (16,)]
    """
    for name, value in {"weight_decay": weight_decay, "multiplier": multiplier}.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    model = unwrapped(model)
    last = {id(p) for layer in _layers(model, before, example, multiplier) for p in matrices(layer)}
    vectors = set() if decay_vectors else _vectors(model)
    decays = {"most": weight_decay, "last": weight_decay * multiplier, "none": 0.0}
    groups: dict[str, list[nn.Parameter]] = {key: [] for key in decays}
    for parameter in model.parameters():
        key = id(parameter)
        groups["last" if key in last else "none" if key in vectors else "most"].append(parameter)
    return [
        {"params": parameters, "weight_decay": decays[key]}
        for key, parameters in groups.items()
        if parameters
    ]


def _layers(
    model: nn.Module, before: str | Sequence[str] | None, example: Any, multiplier: float
) -> list[nn.Module]:
    if before is not None:
        return [_named(model, name) for name in ([before] if isinstance(before, str) else before)]
    if multiplier == 1:
        return []
    if not fixed_heads(model):
        raise ValueError(
            f"{type(model).__name__} has no fixed head: replace_head first, or name the layers "
            "that make the features with before"
        )
    found = _without_norms(model, layers_before(model, example))
    names = sorted({name for names in found.values() for name in names})
    _log.info("%s: %g times the decay for %s", type(model).__name__, multiplier, names)
    return [_linear_part(model.get_submodule(name)) for name in names]


def _without_norms(model: nn.Module, found: Layers) -> Layers:
    """Layers whose decay shrinks the map; a warning of the heads that have none."""
    layers: Layers = {}
    normalised = {}
    for name, head in fixed_heads(model).items():
        if head.norm is not None:
            normalised[name] = type(head.norm).__name__
            continue
        if not found.get(name):
            raise ValueError(
                f"no layer was found before the head {name!r}: name it with before, or give an "
                "example input"
            )
        norms = [maker for maker in found[name] if is_norm(model.get_submodule(maker))]
        if norms:
            normalised[name] = ", ".join(map(repr, norms[:3]))
        layers[name] = [maker for maker in found[name] if maker not in norms]
    if normalised:
        heads = "; ".join(f"{name!r} behind {norm}" for name, norm in normalised.items())
        warnings.warn(
            f"features have a fixed length behind a normalisation ({heads}): decay of the layers "
            "before it does not shrink the map, and is not multiplied there. What is left is the "
            "head's scale (3 instead of 1 to begin with); before='...' multiplies nevertheless",
            stacklevel=4,
        )
    return layers


def _named(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules or not matrices(_linear_part(modules[name])):
        known = [n for n, m in modules.items() if matrices(m) and not list(m.children())]
        raise ValueError(
            f"before={name!r} is not a layer of {type(model).__name__} with a weight matrix; the "
            f"last ones are {known[-8:]}"
        )
    return _linear_part(modules[name])


def _linear_part(layer: nn.Module) -> nn.Module:
    return layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer


def _vectors(model: nn.Module) -> set[int]:
    """Parameters that are no matrices, or that a model of timm says not to decay."""
    stated = getattr(model, "no_weight_decay", None)
    names = set(stated()) if callable(stated) else set()
    vectors = {id(p) for name, p in model.named_parameters() if p.ndim < 2 or name in names}
    return vectors | {id(p) for m in model.modules() if is_norm(m) for p in m.parameters()}
