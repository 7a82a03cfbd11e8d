"""Specifications: modules as a class and the arguments of its constructor, in JSON.

What is a formula of its arguments is described; what is data stays in ``state_dict``, and only its
shape is described. Modules are made on the meta device, where a shape costs nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._tasks import Tasks

Spec = dict[str, Any]
"""``{"class": name, "arguments": {...}}``, of JSON values."""

_NO_GEOMETRY = {"dtype", "duality_gap"}
_IN_STATE_DICT = {
    *("in_features", "bias", "decay", "gradient", "update_every", "solver", "proximal", "centred"),
    "means_dtype",
}
"""Arguments of heads on which logits depend through the tensors of ``state_dict`` only."""
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


class Specified(nn.Module):
    """A module that :func:`describe` describes and :func:`make` makes again.

    A subclass that keeps each argument of its constructor under the argument's own name needs
    nothing more. Others override :meth:`arguments`.
    """

    @classmethod
    def from_arguments(cls, **arguments: Any) -> Any:
        """Make one from what :meth:`arguments` gave."""
        return cls(**arguments)

    def arguments(self) -> dict[str, Any]:
        """Arguments of :meth:`from_arguments`; stored data as tensors on the meta device."""
        names = inspect.signature(type(self)).parameters.keys() - {"device"}
        return {name: getattr(self, name, _Missing(name)) for name in sorted(names)}


def describe(module: Specified, *, partly: bool = False) -> Spec:
    """The specification of a module.

    Args:
        module: that keeps its arguments.
        partly: write ``{"own": repr}`` for parts that no JSON can hold, instead of an error.

    Raises:
        ValueError: if a module made from it would not be the same, because an argument is not
            kept, or no JSON can hold it.
    """
    name, encode = class_name(module), _encode_or_print if partly else _encode
    try:
        arguments = {key: encode(value) for key, value in module.arguments().items()}
    except TypeError as error:
        raise ValueError(f"{name} cannot be described in JSON: {error}") from error
    return {"class": name, "arguments": arguments}


def class_name(module: nn.Module) -> str:
    """The class that somebody wrote, where torch made one of its own from it (FSDP2 does)."""
    classes = type(module).__mro__
    return next(cls.__name__ for cls in classes if not cls.__module__.startswith("torch."))


def make(spec: Any, *, in_features: int) -> Any:
    """A module on the meta device, of the structure that a specification describes.

    Args:
        spec: from :func:`describe`, or from a file that somebody else wrote.
        in_features: d, which bounds all sizes; a specification of another d is refused.

    Raises:
        ValueError: if it is not the specification of a module that can be made here.
    """
    try:
        module = _decode(spec, in_features)
    except (AttributeError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"not a specification: {error}") from error
    if not isinstance(module, Specified):
        raise ValueError(f"not a specification: {spec!r:.200}")
    return module


def identity(spec: Any) -> Any:
    """The part of a specification that determines logits and is in no tensor of ``state_dict``.

    Two heads with the same identity and the same ``state_dict`` have the same logits.

    Args:
        spec: from :func:`describe`, or what former versions kept in the metadata of checkpoints.
            Of anything else, as damaged files have it, nothing is left out.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("arguments"), Mapping):
        return _plain(spec)
    parts = {k: v for k, v in spec["arguments"].items() if k not in _IN_STATE_DICT}
    if parts.pop("learn_scale", False):
        parts["scale"] = "learned"
    tasks = parts.pop("tasks_or_classes", parts.pop("tasks", None))
    name, tasks = spec.get("class"), tasks if isinstance(tasks, Mapping) else {"tasks": tasks}
    if {"code", "orientation"} <= set(parts):  # the parts are what counts, not who chose them
        name, tasks = "FixedHead", _argument(parts["code"], "tasks")
    return _plain({"class": name, "tasks": tasks} | parts)


def _listed(tasks: Any) -> Any:
    return [tasks] if isinstance(tasks, int) else tasks


def _argument(spec: Any, name: str) -> Any:
    arguments = spec.get("arguments") if isinstance(spec, Mapping) else None
    return arguments.get(name) if isinstance(arguments, Mapping) else None


def _plain(value: Any) -> Any:
    """Values to compare: without precision and proofs, and with tasks in their order."""
    if isinstance(value, Mapping):
        if set(value) == {"tasks"}:  # of equal mappings the order may differ
            tasks = value["tasks"]
            return _plain(list(tasks.items()) if isinstance(tasks, Mapping) else _listed(tasks))
        if set(value) == {"own"}:
            return value["own"]
        return {k: _plain(v) for k, v in value.items() if k not in _NO_GEOMETRY}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, nn.Module):
        return describe(value) if isinstance(value, Specified) else {"own": repr(value)}
    if isinstance(value, Tasks):
        return {"tasks": value.pack(value.sizes)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, tuple) and all(type(entry) is int for entry in value):
        return {"integers": list(value)}
    if isinstance(value, Tensor) and value.is_meta:
        return {"shape": list(value.shape), **_encode(value.dtype)}
    if isinstance(value, _Missing):
        raise TypeError(str(value))
    raise TypeError(f"{value!r:.200} is not a JSON value")


def _encode_or_print(value: Any) -> Any:
    try:
        return _encode(value)
    except (TypeError, ValueError):
        return {"own": repr(value)}


def _decode(value: Any, in_features: int) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    keys = set(value) if isinstance(value, Mapping) else set()
    if keys == {"class", "arguments"}:
        arguments = {k: _decode(v, in_features) for k, v in value["arguments"].items()}
        width = arguments.get("in_features", in_features)
        if width != in_features:
            raise ValueError(f"made for {width!r} features, there are {in_features}")
        cls = _class(value["class"])
        if "device" in inspect.signature(cls).parameters:
            arguments["device"] = "meta"
        return cls.from_arguments(**arguments)
    if keys == {"tasks"}:
        return Tasks.parse(value["tasks"])
    if keys == {"integers"}:
        return tuple(value["integers"])
    if keys == {"dtype"}:
        return _DTYPES[value["dtype"]]
    if keys == {"shape", "dtype"}:
        return torch.empty(value["shape"], dtype=_DTYPES[value["dtype"]], device="meta")
    if keys == {"own"}:
        raise ValueError(
            f"it contains a module of your own, {value['own']!r:.200}, which no file can make: "
            "build the head and put it in place before loading"
        )
    raise ValueError(f"not a specification: {value!r:.200}")


def _class(name: str) -> type[Specified]:
    name = "FixedHead" if name == "MultiTaskFixedHead" else name  # of former versions
    found = [cls for cls in _subclasses(Specified) if cls.__name__ == name]
    if len(found) != 1:
        problem = "several classes" if found else "no class"
        raise ValueError(f"{problem} of this name: {name!r:.80} (import your own before loading)")
    return found[0]


def _subclasses(cls: type[Specified]) -> Iterator[type[Specified]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


class _Missing:
    """An argument that its module did not keep."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<no {self.name}>"

    def __str__(self) -> str:
        return (
            f"it keeps no attribute of the name of its argument {self.name!r}; keep one, or "
            "override arguments()"
        )
