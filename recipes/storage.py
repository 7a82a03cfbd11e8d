"""Files that are the old ones or the new ones, when a run is killed and when a disk is full."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of what cannot be written where it was to go, and how to go on.

    Raises:
        OSError: in place of what Python, torch (RuntimeError) and safetensors raise when a disk is
            full. Of the three, torch does not say why.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(next(place for place in path.parents if place.exists())).free
        raise OSError(
            f"{path} cannot be written ({error}; {free:,} bytes are free there). What was written "
            "before is as it was: free space, then start again; a run goes on with --resume"
        ) from error


def write_json(path: Path, values: Any, indent: int | None = 1) -> None:
    """Write JSON beside ``path``, then put it in its place in one move.

    Args:
        path: of the file.
        values: of JSON's types.
        indent: spaces a level; None for a single line, where there is more than one would read.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have; see :func:`json_values`.
        OSError: see :func:`writing`.
    """
    beside = path.with_name(f".{path.name}.partial")
    with writing(path):
        with beside.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=indent, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


def json_values(values: Any) -> Any:
    """The same nested values with None for numbers that are NaN or infinite."""
    if isinstance(values, dict):
        return {name: json_values(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [json_values(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def finite(values: Any) -> bool:
    """Whether no number in nested dicts and lists is NaN or infinite."""
    if isinstance(values, dict | list):
        return all(map(finite, values.values() if isinstance(values, dict) else values))
    return not isinstance(values, float) or math.isfinite(values)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: naming the file, if it is not JSON, which has no NaN and no infinity.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
