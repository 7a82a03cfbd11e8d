"""A fixed head for a model that somebody else built, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.heads import CompoundETFHead, ETFHead, Head, SphericalCodeHead, from_linear
from etf_heads.surgery._adapter import HeadAdapter, TaskOutputs
from etf_heads.surgery._configuration import update_config
from etf_heads.surgery._locate import (
    Classifier,
    channels_first,
    find_heads,
    names_of,
    width_and_classes,
)
from etf_heads.surgery._modules import (
    adapted,
    drop_following_relu,
    like_of,
    put_module,
    returns_tasks,
    set_task_outputs,
    update_class_count,
)

M = TypeVar("M", bound=nn.Module)
HeadOrTasks = int | TaskSpec | nn.Module | Callable[[int], nn.Module] | None
"""Class counts, a head, or a function from the width d to a head."""


def replace_head(
    model: M,
    head_or_tasks: HeadOrTasks = None,
    *,
    at: str | Sequence[str] | None = None,
    aligned: bool = False,
    **options: Any,
) -> M:
    r"""Give a classifier a fixed head, in place: models of timm, torchvision, transformers, any.

    The layers that :func:`find_heads` shows are replaced, and nothing else::

        model = timm.create_model("resnet50", pretrained=True)
        replace_head(model, 200, feature_norm="batch")
        replace_head(model, {"species": 200, "attribute": 40}, feature_norm="batch")

    With several tasks the model returns a dict (or tuple) of logits by task: in
    ``output.logits`` for models of transformers, in each of the outputs of models that return
    several. Heads keep device, dtype and training mode of the layers they replace. Distilled and
    auxiliary classifiers get heads of their own. 1x1 convolutions get heads over the channels. A
    ReLU right behind a classifier (SqueezeNet) is taken away: it would clip the negative half
    of the logits. Where the model or its configuration says the number of classes, it is
    updated.

    Args:
        model: any model; changed in place.
        head_or_tasks: K, for an :class:`ETFHead`; None for as many classes as before; a mapping
            or sequence of class counts, for a :class:`CompoundETFHead`; a head; or a function
            from the number of features to a head, such as
            ``lambda d: NearestETFHead(d, 200)``. A task of more than d + 1 classes makes it a
            :class:`SphericalCodeHead`.
        at: name or names of the classifiers, for models of no known library. Of a container,
            the last layer is meant.
        aligned: start from the head nearest to the learned one
            (:func:`~etf_heads.heads.from_linear`), for classes that stay the same.
        options: of the head: ``feature_norm``, ``scale``, ``orientation``, ``bias`` and others.
            Features of a pretrained model are seldom normalised: ``feature_norm="batch"`` is
            what to try first.

    Returns:
        The model.

    Raises:
        ValueError: if no classifier is found, the ETFs do not fit into its features, its weight
            is shared with other modules, or arguments do not go together.

    Note:
        Methods that bring back a learned head do so silently: timm's ``reset_classifier``, and
        but for a line in the log the ``from_pretrained`` of transformers. What
        ``save_pretrained`` or transformers' Trainer wrote comes back by
        :func:`~etf_heads.surgery.from_pretrained`; other models are saved with
        :func:`~etf_heads.surgery.save_model`. A model's ``forward_head`` or ``forward`` called
        without the model itself returns the logits of all tasks side by side.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> model = replace_head(model, {"shape": 3, "colour": 2}, at="2")
        >>> {task: tuple(logits.shape) for task, logits in model(torch.randn(4, 8)).items()}
        {'shape': (4, 3), 'colour': (4, 2)}
    """
    layers = find_heads(model, at)
    _check_untied(model, layers)
    if isinstance(head_or_tasks, nn.Module) and len(layers) > 1:
        raise ValueError(
            f"{type(model).__name__} has {len(layers)} classifiers, {', '.join(layers)}: give a "
            "function that makes a head for each, or name one with at"
        )
    heads = {
        name: _head(name, layer, head_or_tasks, aligned, options) for name, layer in layers.items()
    }
    outputs = _task_outputs(layers, heads)
    before = width_and_classes(next(iter(layers.values())))[1]
    for name, layer in layers.items():
        names = names_of(model, layer)
        put_module(model, names, _adapted(layer, heads[name]))
        for place in names:
            drop_following_relu(model, place)
    set_task_outputs(model, outputs)
    after = getattr(next(iter(heads.values())), "out_features", before)
    update_class_count(model, before, after)
    return update_config(model)


def _head(
    name: str,
    layer: Classifier,
    head_or_tasks: HeadOrTasks,
    aligned: bool,
    options: dict[str, Any],
) -> nn.Module:
    if options and (aligned or callable(head_or_tasks)):
        raise ValueError(
            f"{', '.join(options)}: options are for heads made here from class counts, not for "
            + ("aligned=True" if aligned else f"your own {head_or_tasks!r:.80}")
        )
    width, _ = width_and_classes(layer)
    if aligned:
        head = _aligned(name, layer, head_or_tasks)
    elif isinstance(head_or_tasks, nn.Module) or callable(head_or_tasks):
        head = _given(head_or_tasks, width).to(like_of(layer))
    else:
        head = _made(name, layer, head_or_tasks, options)
    if getattr(head, "in_features", width) != width:
        raise ValueError(
            f"the classifier {name!r} has {width} features, the head takes {head.in_features}"
        )
    return head.train(layer.training)


def _made(
    name: str, layer: Classifier, tasks: int | TaskSpec | None, options: dict[str, Any]
) -> nn.Module:
    width, classes = width_and_classes(layer)
    like = like_of(layer)
    given: dict[str, Any] = {"device": like.device, "dtype": like.dtype} | options
    try:
        wanted = classes if tasks is None else tasks
        if _most_classes(wanted) > width + 1:
            return SphericalCodeHead(width, wanted, **given)
        if isinstance(wanted, Mapping | Sequence):
            return CompoundETFHead(width, wanted, **given)
        return ETFHead(width, wanted, **given)
    except ValueError as error:
        raise ValueError(
            f"the classifier {name!r} with {width} features: {error}. Other heads are given "
            "by a function, such as lambda d: ClassMeanHead(d, classes), which fits any width"
        ) from error


def _most_classes(tasks: Any) -> int:
    """Classes of the largest task; 0 of what is no task at all, which heads complain of."""
    sizes = tasks.values() if isinstance(tasks, Mapping) else tasks
    listed = isinstance(sizes, Iterable) and not isinstance(sizes, str)
    return max((n for n in (sizes if listed else [sizes]) if isinstance(n, int)), default=0)


def _given(head: Callable[[int], nn.Module], width: int) -> nn.Module:
    if isinstance(head, nn.Module):
        return head
    made = head(width)
    if not isinstance(made, nn.Module):
        raise ValueError(f"head_or_tasks made {made!r:.80} of {width} features: no module")
    return made


def _aligned(name: str, layer: Classifier, head_or_tasks: HeadOrTasks) -> nn.Module:
    classes = width_and_classes(layer)[1]
    if head_or_tasks not in (None, classes):
        raise ValueError(
            f"aligned=True starts from the {classes} learned classes of {name!r}: leave "
            "head_or_tasks out"
        )
    if isinstance(layer, Head | HeadAdapter):
        raise ValueError(f"aligned=True needs a learned classifier; {name!r} is {layer}")
    linear = nn.Linear(*width_and_classes(layer), bias=layer.bias is not None, device="meta")
    linear.weight = nn.Parameter(layer.weight.detach().flatten(1))
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias.detach())
    return from_linear(linear)


def _adapted(layer: Classifier, head: nn.Module) -> nn.Module:
    first = channels_first(layer)
    return adapted(layer, head, channels_first=first) if first or returns_tasks(head) else head


def _task_outputs(layers: dict[str, Classifier], heads: dict[str, nn.Module]) -> TaskOutputs | None:
    tasks = {name: _tasks(head) for name, head in heads.items()}
    first = next(iter(tasks.values()))
    if any(other != first for other in tasks.values()):
        raise ValueError(f"the classifiers got heads of different tasks: {tasks}")
    if first is None:
        return None
    return TaskOutputs(first, channels_first=any(map(channels_first, layers.values())))


def _tasks(head: Any) -> Tasks | None:
    return head.tasks if returns_tasks(head) else None


def _check_untied(model: nn.Module, layers: dict[str, Classifier]) -> None:
    own = {id(p): name for name, layer in layers.items() for p in layer.parameters()}
    inside = {id(m) for layer in layers.values() for m in layer.modules()}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in inside:
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in own:
                raise ValueError(
                    f"the classifier {own[id(parameter)]!r} shares its weight with "
                    f"'{name}.{key}': a fixed head would leave that one alone with it. Untie "
                    "them first: give the classifier an nn.Parameter of its own"
                )
