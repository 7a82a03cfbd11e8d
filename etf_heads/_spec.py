"""Modules told by their class and the arguments of their constructor, as JSON, and made from it.

What is a formula of its arguments is told here; what is data stays in ``state_dict``, and only its
shape is told. Modules are made on the meta device, where a shape costs nothing.
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
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


class Specified(nn.Module):
    """A module that :func:`describe` tells and :func:`make` makes again.

    Nothing is to be written in a subclass that keeps each argument of its constructor under the
    argument's own name. Others override :meth:`arguments`.
    """

    @classmethod
    def from_arguments(cls, **arguments: Any) -> Any:
        """Make one from what :meth:`arguments` gave."""
        return cls(**arguments)

    def arguments(self) -> dict[str, Any]:
        """What :meth:`from_arguments` takes; tensors on the meta device stand for stored data."""
        names = inspect.signature(type(self)).parameters.keys() - {"device"}
        return {name: getattr(self, name, _Missing(name)) for name in sorted(names)}


def describe(module: Specified) -> Spec:
    """The specification of a module.

    Raises:
        ValueError: if a module made from it would not be the same, because an argument is not
            kept, or no JSON can hold it.
    """
    name = class_name(module)
    try:
        spec = {
            "class": name,
            "arguments": {key: _encode(value) for key, value in module.arguments().items()},
        }
    except TypeError as error:
        raise ValueError(f"{name} cannot be written down: {error}") from error
    return spec


def class_name(module: nn.Module) -> str:
    """The class that somebody wrote, where torch made one of its own from it (FSDP2 does)."""
    classes = type(module).__mro__
    return next(cls.__name__ for cls in classes if not cls.__module__.startswith("torch."))


def make(spec: Any, *, in_features: int) -> Any:
    """A module on the meta device, of the structure that a specification tells.

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


def geometry_of(value: Any) -> Any:
    """What to compare of specifications: all but precision and proofs, and tasks in their order."""
    if isinstance(value, Mapping):
        if set(value) == {"tasks"}:  # of equal mappings the order may differ
            tasks = value["tasks"]
            return geometry_of(list(tasks.items()) if isinstance(tasks, Mapping) else tasks)
        return {k: geometry_of(v) for k, v in value.items() if k not in _NO_GEOMETRY}
    return [geometry_of(v) for v in value] if isinstance(value, list | tuple) else value


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Specified):
        return describe(value)
    if isinstance(value, Tasks):
        return {"tasks": value.pack(value.sizes)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Tensor) and value.is_meta:
        return {"shape": list(value.shape), **_encode(value.dtype)}
    if isinstance(value, _Missing):
        raise TypeError(str(value))
    if isinstance(value, nn.Module):
        return {"own": repr(value)}
    raise TypeError(f"{value!r:.200} is no JSON value")


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
    """Stands for an argument that its module did not keep."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return (
            f"it keeps no attribute of the name of its argument {self.name!r}; keep one, or "
            "override arguments()"
        )
