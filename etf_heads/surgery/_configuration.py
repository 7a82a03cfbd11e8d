"""Descriptions of fixed heads in the configuration of a model of transformers."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from etf_heads.surgery._description import KEY, describe_heads, fixed_heads
from etf_heads.surgery._modules import unwrapped

M = TypeVar("M", bound=nn.Module)


def update_config(model: M) -> M:
    """Describe the fixed heads of a model of transformers in ``model.config``.

    ``save_pretrained`` writes it into ``config.json``, where
    :func:`~etf_heads.surgery.from_pretrained` finds it. :func:`~etf_heads.surgery.replace_head`
    and :func:`~etf_heads.surgery.load_model` do this on their own; call it when you put a head
    there by yourself, or gave the classes of one other vectors. Of a model without fixed heads the
    description is taken away. Models of other libraries have no such configuration, and stay as
    they are.

    Args:
        model: any model.

    Returns:
        The model.

    Example:
        >>> from etf_heads import ETFHead
        >>> from transformers import BertConfig, BertForSequenceClassification  # doctest: +SKIP
        >>> model = BertForSequenceClassification(BertConfig())  # doctest: +SKIP
        >>> model.classifier = ETFHead(768, 2)  # doctest: +SKIP
        >>> sorted(update_config(model).config.etf_heads)  # doctest: +SKIP
        ['format', 'heads', 'outputs']
    """
    inner = unwrapped(model)
    config = getattr(inner, "config", None)
    if config is None or not of_transformers(inner):
        return model
    if fixed_heads(inner):
        setattr(config, KEY, _described(inner))
    elif hasattr(config, KEY):
        delattr(config, KEY)
    return model


def of_transformers(model: nn.Module) -> bool:
    """Whether a class of transformers is among those of the model."""
    return any(cls.__module__.partition(".")[0] == "transformers" for cls in type(model).__mro__)


def _described(model: nn.Module) -> dict[str, Any]:
    try:
        return describe_heads(model, lasting=True)
    except ValueError as error:  # a head of the user's own is no reason to refuse it here
        return {"error": str(error)}
