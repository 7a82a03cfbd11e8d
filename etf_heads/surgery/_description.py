"""Descriptions of the fixed heads of a model, in JSON: enough to put them into another."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from etf_heads._spec import describe
from etf_heads._tasks import Tasks
from etf_heads.heads import Head, check_frame, from_spec, same_head, to_spec
from etf_heads.surgery._adapter import HeadAdapter, TaskOutputs
from etf_heads.surgery._locate import is_classifier, names_of, width_and_classes
from etf_heads.surgery._modules import (
    adapted,
    drop_following_relu,
    head_of,
    like_of,
    next_in_sequence,
    put_module,
    set_task_outputs,
    task_outputs,
    update_class_count,
)

KEY = "etf_heads"
"""Of a description, among whatever else a file or a configuration says of a model."""
_FORMAT = 1


def describe_heads(model: nn.Module, *, lasting: bool = False) -> dict[str, Any]:
    """The fixed heads of a model: where they are, what they are, and which outputs they part.

    Args:
        model: with any number of fixed heads.
        lasting: leave out the fingerprint of class vectors that training may change.

    Raises:
        ValueError: if a head cannot be written down.
    """
    places = [asdict(_place(model, module, lasting)) for module in fixed_heads(model)]
    return {"format": _FORMAT, "heads": places, "outputs": _outputs(model)}


def fixed_heads(model: nn.Module) -> list[nn.Module]:
    """Fixed heads, each inside its adapter where it has one."""
    inside = {id(module.head) for module in model.modules() if isinstance(module, HeadAdapter)}
    return [m for m in model.modules() if isinstance(head_of(m), Head) and id(m) not in inside]


@dataclass(frozen=True)
class Place:
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

    def make(self, model: nn.Module, file: Any = None) -> nn.Module | None:
        """The head, of the shapes that a file has; None where the model has it already."""
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
            if file is not None:
                inside = "" if self.adapter is None else ".head"
                _check_shapes(head, f"{self.names[0]}{inside}", file)
            like = like_of(layer)
            head = head.to_empty(device=like.device)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"the fixed head at {self.names[0]!r}: {error}") from error
        if like_of(head).dtype != like.dtype:
            head = head.to(like.dtype)
        head = head.train(layer.training)
        return head if self.adapter is None else adapted(layer, head, channels_first=self.adapter)

    def put(self, model: nn.Module, module: nn.Module | None) -> None:
        """Put what :meth:`make` made into its place."""
        if module is None:
            return
        before = width_and_classes(model.get_submodule(self.names[0]))[1]
        put_module(model, self.names, module)
        if self.unclipped:
            for name in self.names:
                drop_following_relu(model, name)
        update_class_count(model, before, head_of(module).out_features)

    def check(self, model: nn.Module) -> None:
        """ValueError if the class vectors, once loaded, are not those that were described."""
        if "frame" in self.head:
            check_frame(head_of(model.get_submodule(self.names[0])), self.head)

    def _check_same(self, layer: nn.Module) -> None:
        ours = to_spec(head_of(layer))
        same_place = isinstance(layer, HeadAdapter) == (self.adapter is not None)
        if not (same_place and same_head(ours, self.head)):
            raise ValueError(
                f"the model has another fixed head at {self.names[0]!r} than the file: "
                f"{ours!r:.300}, and not {self.head!r:.300}; load into the model as its "
                "library builds it, and the head comes from the file"
            )


def _place(model: nn.Module, module: nn.Module, lasting: bool) -> Place:
    names = names_of(model, module)
    if names == [""]:
        raise ValueError("model is a head itself: give save_model the network that it is part of")
    after, head = next_in_sequence(model, names[0]), head_of(module)
    return Place(
        names,
        describe(head) if lasting and not _is_formula(head) else to_spec(head),
        module.channels_first if isinstance(module, HeadAdapter) else None,
        after is not None and isinstance(model.get_submodule(after), nn.Identity),
    )


def _is_formula(head: Head) -> bool:
    """Whether class vectors follow from the arguments of a head alone, and can be computed now."""
    data = {key.partition(".")[0] for key in head.state_dict()} - {"bias", "scale", "norm"}
    return not data and not like_of(head).is_meta


def _outputs(model: nn.Module) -> dict[str, Any]:
    described = {}
    for name, module in model.named_modules():
        hook = task_outputs(module)
        if hook is not None:
            tasks = hook.tasks.pack(hook.tasks.sizes)
            described[name] = {"tasks": tasks, "channels_first": hook.channels_first}
    return described


def read_description(
    document: Any, model: nn.Module, source: str
) -> tuple[list[Place], dict[str, TaskOutputs]]:
    """Places of heads, and hooks by the names of the modules whose outputs they part.

    Raises:
        ValueError: if it is no description, or one of the heads of another model.
    """
    try:
        if document["format"] != _FORMAT:
            raise ValueError(
                f"its format is {document['format']!r:.80}, this version reads {_FORMAT}"
            )
        places = [Place(**place) for place in document["heads"]]
        named = Counter(name for place in places for name in place.names)
        if twice := [name for name, times in named.items() if times > 1]:
            raise ValueError(f"it has two heads at {twice[0]!r:.200}")
        outputs = {
            name: TaskOutputs(Tasks.parse(o["tasks"]), channels_first=bool(o["channels_first"]))
            for name, o in document["outputs"].items()
        }
        modules = dict(model.named_modules(remove_duplicate=False))
        unknown = [name for name in outputs if name not in modules]
        if unknown:
            raise ValueError(f"the model has no module {unknown[0]!r:.200}")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"what {source} says of its heads cannot be used: {error}") from error
    extra = [n for head in fixed_heads(model) for n in names_of(model, head) if n not in named]
    if extra:
        raise ValueError(f"the model has a fixed head at {extra[0]!r}, {source} has none there")
    return places, outputs


def put_heads(
    model: nn.Module, places: list[Place], outputs: dict[str, TaskOutputs], file: Any = None
) -> None:
    """Put heads into their places, all of them or (ValueError) none."""
    made = [(place, place.make(model, file)) for place in places]
    for place, module in made:
        place.put(model, module)
    for name, hook in outputs.items():
        set_task_outputs(model.get_submodule(name), hook)


def _check_shapes(head: nn.Module, name: str, file: Any) -> None:
    """ValueError unless the file has what the head stores; before any memory is taken for it."""
    for key, tensor in head.state_dict().items():
        former = f"{name}.{key.replace('codebook.', 'code.')}"  # before format 1 had "codebook"
        kept = former if former in file.keys() else f"{name}.{key}"  # noqa: SIM118 (no mapping)
        if kept not in file.keys():  # noqa: SIM118
            raise ValueError(f"the file has no {kept!r}")
        shape = tuple(file.get_slice(kept).get_shape())
        if shape != tuple(tensor.shape):
            raise ValueError(f"{kept!r} has shape {shape}, expected {tuple(tensor.shape)}")
