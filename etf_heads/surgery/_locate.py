"""Location of a model's classifier: by the names its library gives it, never by sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from torch import nn

from etf_heads.heads import Head, LinearHead
from etf_heads.surgery._adapter import HeadAdapter

Classifier = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Head | LinearHead | HeadAdapter
"""Supported classifiers; all have a width d and a number of classes."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SHOWN = 12  # candidates in an error message

# Names of torchvision and transformers; in a container the last layer is the classifier. Only the
# first that a model has counts: another of these names may be a hidden layer before it.
_FIRST = (
    "classifier",
    "cls_classifier",
    "fc",
    "score",
    "logits_proj",
    "classification_head",
    "heads",
    "head",
    "sequence_summary.summary",
    "perceiver.decoder.decoder.final_layer",
)
_FURTHER = (  # distilled, auxiliary, of another resolution
    "distillation_classifier",
    "classifier_distill",
    "dist_head",
    "aux1",
    "aux2",
    "AuxLogits",
    "aux_classifier",
    "classifier.low_classifier",
)


def find_heads(model: nn.Module, at: str | Sequence[str] | None = None) -> dict[str, Classifier]:
    """The classifier layers of a model, by module name: what ``replace_head`` would replace.

    Models of timm, torchvision and transformers are known by the names that the libraries use
    (``model.pretrained_cfg["classifier"]`` in timm); other models need ``at``. Most have one
    classifier; distilled models and those with auxiliary classifiers have several.

    Args:
        model: any model.
        at: name or names of the classifiers, where you know better. Of a container, the last
            layer is meant.

    Returns:
        Layers (``nn.Linear``, convolutions, heads of this library) by their names in
        ``named_modules``.

    Raises:
        ValueError: if there is none, or the model is of no known library; the message lists
            the layers to choose from.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
        >>> find_heads(model, at="2")
        {'2': Linear(in_features=4, out_features=3, bias=True)}
    """
    names = ([at] if isinstance(at, str) else list(at)) if at is not None else _known_names(model)
    found = {}
    for name in names:
        found.update(_last_layer(model, name))
    if not found:
        raise ValueError(
            f"{type(model).__name__}: no classifier found (models built with num_classes=0 have "
            f"none). {_way_out(model)}"
        )
    for name, layer in found.items():
        if not _is_pointwise(layer):
            raise ValueError(
                f"{name!r} is {layer}: only a convolution with kernel 1, stride 1 and one group "
                "classifies feature vectors"
            )
    return found


def width_and_classes(layer: Any) -> tuple[int, int]:
    """Width d and number of classes K of a layer."""
    if isinstance(layer, CONVOLUTIONS):
        return layer.in_channels, layer.out_channels
    return layer.in_features, layer.out_features


def is_classifier(module: nn.Module) -> TypeGuard[Classifier]:
    """Whether a module is a layer that a head can stand in for."""
    return isinstance(module, Classifier)


def channels_first(layer: nn.Module) -> bool:
    """Whether a layer takes features in dimension 1, as convolutions do."""
    if isinstance(layer, HeadAdapter):
        return layer.channels_first
    return isinstance(layer, CONVOLUTIONS)


def names_of(model: nn.Module, module: nn.Module) -> list[str]:
    """All names of a module, which a model may use in several places."""
    return [n for n, m in model.named_modules(remove_duplicate=False) if m is module]


def _known_names(model: nn.Module) -> list[str]:
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config.get("classifier"):
        return _timm_names(model, config["classifier"])
    timm_model = getattr(model, "timm_model", None)  # transformers' wrapper of timm
    if isinstance(timm_model, nn.Module):
        return [f"timm_model.{name}" for name in _known_names(timm_model)]
    if not _of_known_library(model):
        raise ValueError(
            f"{type(model).__name__} is not a classifier of timm, torchvision or transformers. "
            f"{_way_out(model)}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    first = [name for name in _FIRST if name in modules and any(_layers(modules[name]))]
    return first[:1] + [name for name in _FURTHER if name in modules]


def _timm_names(model: nn.Module, configured: str | Sequence[str]) -> list[str]:
    modules = dict(model.named_modules(remove_duplicate=False))
    # Some configurations name a classifier that the model was built without, or, like
    # LeViT's, leave out the distilled one that stands beside it.
    names = [configured] if isinstance(configured, str) else list(configured)
    names = [name for name in names if name in modules]
    beside = {name.rpartition(".")[0].rpartition(".")[0] for name in names}
    for prefix in sorted(beside):
        distilled = f"{prefix}.head_dist" if prefix else "head_dist"
        if distilled in modules and not any(n.startswith(distilled) for n in names):
            names.append(distilled)
    return names


def _of_known_library(model: nn.Module) -> bool:
    for cls in type(model).__mro__:
        library, _, kind = cls.__module__.partition(".models")
        if library == "torchvision" and not kind.startswith(".detection"):
            return True
        if library == "transformers" and "Classification" in cls.__name__:
            return True
    return False


def _last_layer(model: nn.Module, name: str) -> dict[str, Classifier]:
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        raise ValueError(f"{type(model).__name__} has no module {name!r}. {_way_out(model)}")
    return dict(list(_layers(modules[name], name))[-1:])


def _layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, Classifier]]:
    if is_classifier(module):
        yield name, module
        return
    for key, child in module.named_children():
        yield from _layers(child, f"{name}.{key}" if name else key)


def _is_pointwise(layer: Classifier) -> bool:
    if not isinstance(layer, CONVOLUTIONS):
        return True
    # "same" and "valid" add nothing to a kernel of 1.
    unpadded = isinstance(layer.padding, str) or not any(layer.padding)
    return unpadded and {*layer.kernel_size, *layer.stride, layer.groups} == {1}


def _way_out(model: nn.Module) -> str:
    layers = [(name, layer) for name, layer in _layers(model) if _is_pointwise(layer)]
    if not layers:
        return "It has no linear layer."
    listing = "\n".join(f"  {name!r}: {layer}" for name, layer in layers[-_SHOWN:])
    more = f" (the last {_SHOWN} of {len(layers)})" if len(layers) > _SHOWN else ""
    return f"Name the classifier, such as at={layers[-1][0]!r}; layers are{more}:\n{listing}"
