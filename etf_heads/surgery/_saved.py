"""Models with fixed heads in one file: the weights, and beside them what the heads are."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import nn

from etf_heads._tasks import Tasks
from etf_heads.heads import Head, check_frame, from_spec, same_head, to_spec
from etf_heads.surgery._adapter import HeadAdapter, TaskOutputs
from etf_heads.surgery._locate import is_classifier, names_of, width_and_classes
from etf_heads.surgery._seat import (
    head_of,
    like_of,
    next_in_sequence,
    seat,
    set_task_outputs,
    task_outputs,
    tell_class_count,
    unclip,
    unwrapped,
)

M = TypeVar("M", bound=nn.Module)
_KEY = "etf_heads"
_FORMAT = 1


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
    told = {"format": _FORMAT, "heads": _told_heads(model), "outputs": _told_outputs(model)}
    beside = path.with_name(f".{path.name}.partial")
    safetensors.torch.save_model(model, str(beside), metadata={_KEY: json.dumps(told)})
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
        places, outputs = _read(file.metadata(), model, path)
        made = [(place, place.make(model, file)) for place in places]
    for place, module in made:
        place.put(model, module)
    for name, hook in outputs.items():
        set_task_outputs(model.get_submodule(name), hook)
    try:
        safetensors.torch.load_model(model, path)
    except RuntimeError as error:
        raise ValueError(f"{path} has the weights of another model: {error}") from error
    for place in places:
        check_frame(head_of(model.get_submodule(place.names[0])), place.head)
    return given


@dataclass(frozen=True)
class _Place:
    """A head in a file: where it belongs, and what it is.

    Attributes:
        names: of the module, more than one where the model uses it in several places.
        head: its specification.
        adapter: None for a head by itself, else whether its adapter has channels first.
        unclipped: whether the ReLU that the library has behind it was taken away.
    """

    names: list[str]
    head: Any
    adapter: bool | None
    unclipped: bool

    def __post_init__(self) -> None:
        """Files may say anything."""
        if not self.names or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"names must be a list of strings, got {self.names!r:.200}")
        if not (self.adapter is None or isinstance(self.adapter, bool)):
            raise ValueError(f"adapter must be true, false or null, got {self.adapter!r:.200}")

    def make(self, model: nn.Module, file: Any) -> nn.Module | None:
        """The head, of the shapes that the file has; None where the model has it already."""
        modules = dict(model.named_modules(remove_duplicate=False))
        for name in self.names:
            if name not in modules or not is_classifier(modules[name]):
                raise ValueError(
                    f"the file has a fixed head at {name!r:.200}, where the model has "
                    f"{modules.get(name)!r:.200}: build the model as it was when it was saved"
                )
        layer = modules[self.names[0]]
        if isinstance(head_of(layer), Head):
            self._check_same(layer)
            return None
        width, _ = width_and_classes(layer)
        try:
            head = from_spec(self.head, width)
            _check_shapes(head, f"{self.names[0]}{'' if self.adapter is None else '.head'}", file)
            like = like_of(layer)
            head = head.to_empty(device=like.device)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"the fixed head at {self.names[0]!r}: {error}") from error
        if like_of(head).dtype != like.dtype:
            head = head.to(like.dtype)
        return self._adapted(head.train(layer.training))

    def put(self, model: nn.Module, module: nn.Module | None) -> None:
        """Put what :meth:`make` made into its place."""
        if module is None:
            return
        before = width_and_classes(model.get_submodule(self.names[0]))[1]
        seat(model, self.names, module)
        if self.unclipped:
            for name in self.names:
                unclip(model, name)
        tell_class_count(model, before, head_of(module).out_features)

    def _adapted(self, head: nn.Module) -> nn.Module:
        return head if self.adapter is None else HeadAdapter(head, channels_first=self.adapter)

    def _check_same(self, layer: nn.Module) -> None:
        ours = to_spec(head_of(layer))
        same_place = isinstance(layer, HeadAdapter) == (self.adapter is not None)
        if not (same_place and same_head(ours, self.head)):
            raise ValueError(
                f"the model has another fixed head at {self.names[0]!r} than the file: "
                f"{ours!r:.300}, and not {self.head!r:.300}; load into the model as its "
                "library builds it, and the head comes from the file"
            )


def _heads(model: nn.Module) -> list[nn.Module]:
    """Fixed heads, each inside its adapter where it has one."""
    inside = {id(module.head) for module in model.modules() if isinstance(module, HeadAdapter)}
    return [m for m in model.modules() if isinstance(head_of(m), Head) and id(m) not in inside]


def _told_heads(model: nn.Module) -> list[dict[str, Any]]:
    return [asdict(_place(model, module)) for module in _heads(model)]


def _place(model: nn.Module, module: nn.Module) -> _Place:
    names = names_of(model, module)
    if names == [""]:
        raise ValueError("model is a head itself: give save_model the network that it is part of")
    after = next_in_sequence(model, names[0])
    return _Place(
        names,
        to_spec(head_of(module)),
        module.channels_first if isinstance(module, HeadAdapter) else None,
        after is not None and isinstance(model.get_submodule(after), nn.Identity),
    )


def _told_outputs(model: nn.Module) -> dict[str, Any]:
    told = {}
    for name, module in model.named_modules():
        hook = task_outputs(module)
        if hook is not None:
            tasks = hook.tasks.pack(hook.tasks.sizes)
            told[name] = {"tasks": tasks, "channels_first": hook.channels_first}
    return told


def _check_shapes(head: nn.Module, name: str, file: Any) -> None:
    """ValueError unless the file has what the head stores; before any memory is taken for it."""
    for key, tensor in head.state_dict().items():
        former = f"{name}.{key.replace('codebook.', 'code.')}"  # before format 1 had "codebook"
        kept = former if former in file.keys() else f"{name}.{key}"  # noqa: SIM118 (no mapping)
        if kept not in file.keys():  # noqa: SIM118
            raise ValueError(f"the file has no {kept!r}")
        shape = tuple(file.get_slice(kept).get_shape())
        if shape != tuple(tensor.shape):
            raise ValueError(f"{kept!r} has shape {shape}, needed is {tuple(tensor.shape)}")


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error


def _read(
    metadata: Mapping[str, str] | None, model: nn.Module, path: Path
) -> tuple[list[_Place], dict[str, TaskOutputs]]:
    if _KEY not in (metadata or {}):
        raise ValueError(
            f"{path} does not say what fixed heads it has: it was not written by save_model. "
            "For plain weights there is safetensors.torch.load_model"
        )
    try:
        told = json.loads((metadata or {})[_KEY])
        if told["format"] != _FORMAT:
            raise ValueError(f"its format is {told['format']!r:.80}, this version reads {_FORMAT}")
        places = [_Place(**place) for place in told["heads"]]
        named = Counter(name for place in places for name in place.names)
        if twice := [name for name, times in named.items() if times > 1]:
            raise ValueError(f"it has two heads at {twice[0]!r:.200}")
        outputs = {
            name: TaskOutputs(Tasks.parse(o["tasks"]), channels_first=bool(o["channels_first"]))
            for name, o in told["outputs"].items()
        }
        modules = dict(model.named_modules(remove_duplicate=False))
        unknown = [name for name in outputs if name not in modules]
        if unknown:
            raise ValueError(f"the model has no module {unknown[0]!r:.200}")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"what {path} says of its heads cannot be used: {error}") from error
    extra = [n for head in _heads(model) for n in names_of(model, head) if n not in named]
    if extra:
        raise ValueError(f"the model has a fixed head at {extra[0]!r}, {path} has none there")
    return places, outputs
