"""Models with fixed heads as plain ones, for tools that know nothing of this package."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from etf_heads.surgery._adapter import HeadAdapter
from etf_heads.surgery._configuration import update_config
from etf_heads.surgery._description import fixed_heads
from etf_heads.surgery._locate import names_of
from etf_heads.surgery._modules import head_of, put_module, unwrapped

M = TypeVar("M", bound=nn.Module)
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@torch.no_grad()
def merge(model: M, *, bias: bool = True) -> M:
    r"""Make plain ``nn.Linear`` layers (1x1 convolutions) of all fixed heads of a model, in place.

    Its ``state_dict`` then loads with ``strict=True`` into the model as its library builds it,
    with :math:`\sum K_t` classes, and gives the same logits there, those of several tasks side
    by side. This model itself still returns them by task. A batch normalisation before a head is
    folded in with its running statistics, as in eval mode. Fine-tuning goes on with learned heads.

    Args:
        model: with one or more fixed heads.
        bias: whether the layers have a bias, zero where the head has none. Classifiers of most
            architectures have one; False is for those that have not, such as ``score`` of Llama.

    Returns:
        The model.

    Raises:
        ValueError: if the model has no fixed head or is one itself, another normalisation than
            "batch" stands before a head, or ``bias=False`` would lose one. The model is then
            unchanged.

    Note:
        Behind the classifier of SqueezeNet torchvision has a ReLU, which ``replace_head`` took
        away: loaded into the original, negative logits become zero.

    Example:
        >>> from etf_heads import replace_head
        >>> body = [nn.Linear(8, 16), nn.ReLU()]
        >>> model = replace_head(nn.Sequential(*body, nn.Linear(16, 3)), 3, at="2")
        >>> plain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> plain.load_state_dict(merge(model).state_dict(), strict=True)
        <All keys matched successfully>
    """
    inner = unwrapped(model)
    merged = [(names_of(inner, module), module) for module in fixed_heads(inner)]
    if not merged:
        raise ValueError(f"{type(inner).__name__} has no fixed head: there is nothing to merge")
    if merged[0][0] == [""]:
        raise ValueError("model is a head itself: head.to_linear(bias=True) is what it merges to")
    plain = [_plain(names[0], module, bias) for names, module in merged]
    for (names, _), layer in zip(merged, plain, strict=True):
        put_module(inner, names, layer)
    update_config(inner)
    return model


def _plain(name: str, module: nn.Module, bias: bool) -> nn.Module:
    try:
        linears = head_of(module).to_linear(bias=bias)
    except ValueError as error:
        raise ValueError(f"the fixed head at {name!r}: {error}") from error
    layers = [linears] if isinstance(linears, nn.Linear) else list(linears.values())
    weight = torch.cat([layer.weight for layer in layers])
    classes, width = weight.shape
    layer: nn.Linear | nn.modules.conv._ConvNd
    if isinstance(module, HeadAdapter) and module.channels_first:
        dims = module.spatial_dims
        layer = _CONVOLUTIONS[dims](width, classes, 1, bias=bias, device="meta")
        weight = weight.reshape(classes, width, *[1] * dims)
    else:
        layer = nn.Linear(width, classes, bias=bias, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias:
        layer.bias = nn.Parameter(torch.cat([part.bias for part in layers]))
    return layer.train(module.training)
