"""Files that are either the old ones or the new ones, whenever a run is killed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, values: Any) -> None:
    """Write JSON beside ``path``, then put it in its place in one move.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have; see :func:`json_values`.
    """
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def json_values(values: Any) -> Any:
    """The same nested dicts with None for numbers that are NaN or infinite."""
    if isinstance(values, dict):
        return {name: json_values(value) for name, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


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
