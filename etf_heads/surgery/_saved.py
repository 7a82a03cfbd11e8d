"""Models with fixed heads in one file: the weights, and beside them what the heads are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import nn

from etf_heads.surgery._configuration import update_config
from etf_heads.surgery._description import KEY, describe_heads, put_heads, read_description
from etf_heads.surgery._modules import unwrapped

M = TypeVar("M", bound=nn.Module)


def save_model(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model with fixed heads to a safetensors file.

    The header of the file has a specification of every fixed head, as JSON under "etf_heads":
    class, arguments, orientation, tasks, and a fingerprint of the class vectors. Weights and
    specification are one file, so that neither is there without the other. It is written
    beside ``path`` and moved into place: a run that is killed leaves the former file.

    Of a model inside ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel`` the model
    is written, under the names that it has without them; :func:`load_model` does likewise.

    Args:
        model: with any number of fixed heads; also heads that you put there yourself.
        path: of the file, such as "model.safetensors".

    Raises:
        ValueError: if a head cannot be written down (see :func:`~etf_heads.heads.to_spec`).

    Example:
        >>> import tempfile, torch
        >>> from etf_heads import ETFHead
        >>> model = nn.Sequential(nn.Linear(8, 4), ETFHead(4, 3))
        >>> twin = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))  # as its library builds it
        >>> with tempfile.TemporaryDirectory() as place:
        ...     save_model(model, f"{place}/model.safetensors")
        ...     twin = load_model(twin, f"{place}/model.safetensors")
        >>> x = torch.randn(2, 8)
        >>> type(twin[1]).__name__, torch.equal(twin(x), model(x))
        ('ETFHead', True)
    """
    path, model = Path(path), unwrapped(model)
    description = json.dumps(describe_heads(model))
    beside = path.with_name(f".{path.name}.partial")
    safetensors.torch.save_model(model, str(beside), metadata={KEY: description})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def load_model(model: M, path: str | os.PathLike[str]) -> M:
    """Load what :func:`save_model` wrote, heads and weights, into a model, in place.

    Where the file has a fixed head and the model the learned classifier that its library
    builds, of any number of classes, the fixed head is put there. A fixed head that is there
    already has to be the same one. Nothing in the file is run or unpickled.

    Args:
        model: built as the saved one was, with or without its fixed heads; not on the meta
            device.
        path: of the file.

    Returns:
        The model, with the weights in its own dtype and on its own devices.

    Raises:
        ValueError: if the file is none of :func:`save_model`, or its heads do not belong into
            this model; the model is then unchanged. Also, with the model changed, if weights
            are missing, left over or of another shape, or class vectors do not come out as
            they were saved.
    """
    path, given = Path(path), model
    model = unwrapped(model)
    if any(p.is_meta for p in model.parameters()):
        raise ValueError("model is on the meta device: call model.to_empty(device=...) first")
    with _opened(path) as file:
        places, outputs = read_description(_document(file.metadata(), path), model, str(path))
        put_heads(model, places, outputs, file)
    try:
        safetensors.torch.load_model(model, path)
    except RuntimeError as error:
        raise ValueError(f"{path} has the weights of another model: {error}") from error
    for place in places:
        place.check(model)
    update_config(model)
    return given


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error


def _document(metadata: Mapping[str, str] | None, path: Path) -> Any:
    if KEY not in (metadata or {}):
        raise ValueError(
            f"{path} does not say what fixed heads it has: it was not written by save_model. "
            "For plain weights there is safetensors.torch.load_model; for a folder of "
            "save_pretrained, etf_heads.from_pretrained"
        )
    try:
        return json.loads((metadata or {})[KEY])
    except (RecursionError, ValueError) as error:
        raise ValueError(f"what {path} says of its heads cannot be used: {error}") from error
