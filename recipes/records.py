"""Dataclasses as JSON, and back with their types checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from recipes.storage import json_values, read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")

_LEAVES: dict[Any, tuple[type, ...]] = {
    float: (float, int),
    int: (int,),
    str: (str,),
    bool: (bool,),
}


def to_json(record: DataclassInstance) -> Any:
    """A dataclass, and all those in it, as JSON values; None for NaN, which JSON does not have."""
    return json_values(asdict(record))


def read_record(kind: type[R], path: Path) -> R:
    """The record in a file of :func:`to_json`.

    Raises:
        ValueError: naming the file, if it is not JSON or not of this form; see :func:`from_json`.
    """
    values = read_json(path)
    try:
        return from_json(kind, values)
    except ValueError as error:
        raise ValueError(f"{path} is not of the form of {kind.__name__}: {error}") from error


def from_json(kind: type[R], values: Any) -> R:
    """The record that :func:`to_json` had the values of.

    Numbers that are None there are NaN, unless the field may be None. Fields that are missing have
    their defaults; what no field takes, such as values that follow from others, is left out.

    Args:
        kind: a dataclass of numbers, strings, ``Literal``, ``Any``, ``X | None``, and lists,
            tuples (``tuple[X, ...]``), dicts with names and dataclasses of these.
        values: JSON values.

    Raises:
        ValueError: naming the field, if one is missing or has a value of another type.
    """
    found: R = _read(kind, values, "")
    return found


def differences(mine: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """What is not the same in both, as "name: saved -> mine"."""
    return [
        f"{name}: {saved.get(name)!r} -> {mine.get(name)!r}"
        for name in {**mine, **saved}
        if saved.get(name) != mine.get(name)
    ]


def _read(kind: Any, value: Any, name: str) -> Any:
    origin, given = get_origin(kind), get_args(kind)
    if (
        type(value) in _LEAVES.get(kind, ())
        or kind is Any
        or (origin is Literal and value in given)
    ):
        return value
    if kind is float and value is None:
        return math.nan
    if origin in (Union, UnionType):
        (other,) = (k for k in given if k is not NoneType)
        return None if value is None else _read(other, value, name)
    found = _container(kind, value, name)
    if found is None:
        wanted = str(kind) if given else kind.__name__
        raise ValueError(f"{name.lstrip('.') or 'it'} is {str(value)[:60]!r}, expected {wanted}")
    return found


def _container(kind: Any, value: Any, name: str) -> Any:
    """A dataclass, dict, list or tuple; None if the value is not one."""
    origin, given = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, Mapping):
        return _record(kind, value, name)
    if origin is dict and isinstance(value, Mapping):
        return {k: _read(given[1], v, f"{name}.{k}") for k, v in value.items()}
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return origin(_read(given[0], v, f"{name}[{i}]") for i, v in enumerate(value))
    return None


def _record(kind: Any, values: Mapping[str, Any], name: str) -> Any:
    found = {}
    for field, hint, needed in _fields(kind):
        if field in values:
            found[field] = _read(hint, values[field], f"{name}.{field}")
        elif needed:
            raise ValueError(f"{name}.{field}".lstrip(".") + " is missing")
    return kind(**found)


@cache
def _fields(kind: Any) -> list[tuple[str, Any, bool]]:
    """Name, type, and whether it has no default, of each field of the constructor."""
    hints = get_type_hints(kind)
    return [
        (f.name, hints[f.name], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(kind)
        if f.init
    ]
