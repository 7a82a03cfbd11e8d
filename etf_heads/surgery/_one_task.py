"""One task of a model of several, for tools that know one tensor of logits."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from etf_heads._tasks import Tasks
from etf_heads.surgery._adapter import TaskOutputs
from etf_heads.surgery._modules import task_outputs, unwrapped

M = TypeVar("M", bound=nn.Module)


def one_task_view(model: M, task: str | int, labels: Sequence[str] | None = None) -> M:
    """A model of several tasks as one of a single task, with the same parameters.

    For whatever expects one tensor of logits: ``pipeline`` of transformers, saliency maps,
    exporters, metrics. The view is of the model's class and shares all its modules: it takes no
    memory, follows further training, and moves along to another device. The configuration of a
    model of transformers is a copy, with the number of classes and the labels of the task.

    Args:
        model: whose heads of several tasks :func:`~etf_heads.surgery.replace_head` put in place.
        task: by name or position.
        labels: names of the classes, in order, for ``config.id2label``; else it has "LABEL_0",
            "LABEL_1" and so on.

    Returns:
        The view. Save the model, not the view.

    Raises:
        ValueError: if the model does not return logits by task, there is no such task, or labels
            are not one a class.

    Example:
        >>> import torch
        >>> from etf_heads import replace_head
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> model = replace_head(model, {"shape": 3, "colour": 2}, at="2")
        >>> colour = one_task_view(model, "colour")
        >>> x = torch.randn(4, 8)
        >>> torch.equal(colour(x), model(x)["colour"])
        True

        With a model of transformers::

            mood = one_task_view(model, "mood", ["glad", "sad", "neither"])
            pipeline("text-classification", model=mood, tokenizer=tokenizer)("What a day!")
    """
    inner = unwrapped(model)
    outputs = task_outputs(inner)
    if outputs is None:
        raise ValueError(
            f"{type(inner).__name__} does not return logits by task: give it the heads of several "
            "tasks by replace_head(model, {name: classes, ...})"
        )
    position = outputs.tasks.index(task)
    classes = outputs.tasks.sizes[position]
    if labels is not None and len(labels) != classes:
        raise ValueError(f"labels has {len(labels)} names, task {task!r} has {classes} classes")
    view = copy.copy(inner)
    one = _OneTask(outputs.tasks, position, channels_first=outputs.channels_first)
    hooks = view._forward_hooks.items()
    view._forward_hooks = OrderedDict((k, one if h is outputs else h) for k, h in hooks)
    if getattr(view, "config", None) is not None:
        view.config = copy.deepcopy(view.config)
        view.config.num_labels = classes
        if labels is not None:
            view.config.id2label = dict(enumerate(labels))
            view.config.label2id = {label: n for n, label in enumerate(labels)}
    return view


class _OneTask(TaskOutputs):
    """A forward hook of a view: its logits, of one task."""

    def __init__(self, tasks: Tasks, position: int, *, channels_first: bool) -> None:
        super().__init__(tasks, channels_first=channels_first)
        self.position = position

    def _part(self, model: nn.Module, logits: Any) -> Any:
        parts = super()._part(model, logits)
        if parts is None:
            return None
        return (list(parts.values()) if isinstance(parts, dict) else parts)[self.position]
