"""Models of transformers from a folder or the Hub, with the fixed heads that they had."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from etf_heads.heads import Head
from etf_heads.surgery._description import KEY, put_heads, read_description
from etf_heads.surgery._modules import head_of

_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder")
_OF_MODEL = ("dtype", "torch_dtype", "quantization_config", "state_dict", "key_mapping")
_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def from_pretrained(model_class: Any, path: str | os.PathLike[str], **options: Any) -> Any:
    """Load what ``save_pretrained`` of a transformers model with fixed heads wrote, heads included.

    ``model_class.from_pretrained(path)`` knows nothing of fixed heads: it builds a learned one,
    initialised at random, and only logs its weight as ``MISSING``. This call takes the same
    arguments, reads in ``config.json`` what the heads are, and puts them in place before the
    weights are loaded, on whatever device and in whatever dtype the options name. Loading is
    strict. Nothing in the files is run or unpickled (but for what ``trust_remote_code=True``
    allows). Checkpoints of transformers' Trainer are such folders, too.

    Args:
        model_class: an auto class, such as ``AutoModelForImageClassification``, or the class of
            the model.
        path: a folder, or the name of a repository on the Hub.
        options: of the class's own ``from_pretrained``: ``dtype``, ``device_map``, ``revision``
            and others.

    Returns:
        The model, in eval mode; with ``output_loading_info=True`` also what transformers says of
        the loading.

    Raises:
        ValueError: if the configuration describes no fixed heads, the heads do not belong into
            this model, tensors are missing, left over or of another shape, or class vectors do
            not come out as they were saved.

    Example:
        >>> from transformers import AutoModelForSequenceClassification  # doctest: +SKIP
        >>> from transformers import BertConfig, BertForSequenceClassification  # doctest: +SKIP
        >>> model = BertForSequenceClassification(BertConfig())  # doctest: +SKIP
        >>> replace_head(model, 4).save_pretrained("topics")  # doctest: +SKIP
        >>> twin = from_pretrained(AutoModelForSequenceClassification, "topics")  # doctest: +SKIP
        >>> type(twin.classifier).__name__  # doctest: +SKIP
        'ETFHead'
    """
    from transformers import AutoConfig, PreTrainedModel  # noqa: PLC0415

    wants_report = options.pop("output_loading_info", False)
    concrete = issubclass(model_class, PreTrainedModel)
    config = options.pop("config", None)
    if config is None:
        loader = model_class.config_class if concrete else AutoConfig
        own = {name: options.pop(name) for name in _OF_MODEL if name in options}
        hub = {name: options[name] for name in (*_HUB, "token") if name in options}
        config, options = loader.from_pretrained(path, return_unused_kwargs=True, **options)
        options |= hub | own
    description = _description(config, path)
    if not concrete:
        with torch.device("meta"):
            model_class = type(model_class.from_config(config))
    loading = _with_heads(model_class, description, path)
    model, report = loading.from_pretrained(
        path, config=config, output_loading_info=True, **options
    )
    model.__class__ = model_class
    problems = {name: sorted(map(str, report[name])) for name in _PROBLEMS if report.get(name)}
    if problems:
        raise ValueError(f"{path} has not the weights of the model that it describes: {problems}")
    places, _ = read_description(description, model, str(path))
    for place in places:
        _rebuild(head_of(model.get_submodule(place.names[0])))
        place.check(model)
    return (model, report) if wants_report else model


def _description(config: Any, path: Any) -> Any:
    description = getattr(config, KEY, None)
    if not isinstance(description, dict):
        raise ValueError(
            f"{path}: its config.json describes no fixed heads. Models that replace_head changed "
            "and save_pretrained wrote have them under 'etf_heads' (update_config(model) writes it "
            "there); for others there is the from_pretrained of transformers"
        )
    if "error" in description:
        raise ValueError(
            f"{path}: the fixed heads of this model could not be described when it was saved: "
            f"{description['error']:.500}"
        )
    return description


def _with_heads(model_class: Any, description: Any, path: Any) -> Any:
    """A subclass whose models have the heads before transformers loads their weights."""

    def __init__(self: nn.Module, config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        model_class.__init__(self, config, *args, **kwargs)
        put_heads(self, *read_description(description, self, str(path)))

    members = {"__init__": __init__, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), members)


def _rebuild(head: Head) -> None:
    """Make anew what no file has: transformers left these tensors as memory was."""
    loaded = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    for module in head.modules():
        vars(module).pop("_is_hf_initialized", None)  # a mark that no new head has
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    head.load_state_dict(loaded)
