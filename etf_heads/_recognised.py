"""Modules that refuse checkpoints of other heads, even those without tensors.

Two fixed heads of the same tasks may both have an empty ``state_dict``. Their specifications go
where torch keeps the versions of modules: into the metadata of the ``state_dict``, which
``torch.save`` writes and ``load_state_dict`` reads. This adds no key for readers of tensors; where
only tensors are kept (safetensors, a ``state_dict`` rebuilt key by key), it is lost, and
:func:`~etf_heads.surgery.save_model` keeps the head with its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from etf_heads._spec import class_name, identity

KEY = "etf_heads"
"""In the metadata of a module's part of a ``state_dict``."""


class Recognised(nn.Module):
    """A module whose checkpoints describe it; ``strict`` loading refuses those of others."""

    def definition(self) -> dict[str, Any]:
        """A description with a "class", of JSON values; its :func:`identity` is compared."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        own = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if own is not None:
            own[KEY] = self.definition()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *strict_and_problems: Any,
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *strict_and_problems)
        # torch raises all problems but these whether loading is strict or not.
        _strict, _missing, unexpected_keys, _errors = strict_and_problems
        unexpected_keys.extend(self._problems(state_dict, prefix, local_metadata))

    def _problems(
        self, state_dict: Mapping[str, Any], prefix: str, metadata: Mapping[str, Any]
    ) -> list[str]:
        place = f"{prefix}{class_name(self)}"
        if KEY in metadata:
            differences = _differences(metadata[KEY], self.definition())
            return [_OTHER_HEAD.format(place, differences)] if differences else []
        learned = _learned(state_dict, prefix, self)
        if learned:
            return [_LEARNED.format(place, ", ".join(learned))]
        # Without a version there is no metadata, and nothing to be known.
        return [_NO_HEAD.format(place)] if "version" in metadata else []


_WAYS_OUT = (
    "strict=False keeps the head that is here. Files of etf_heads.surgery.save_model bring their "
    "head along"
)
_OTHER_HEAD = (
    f"{{}}: the checkpoint is of another head: {{}}. Build the head that was saved; {_WAYS_OUT}."
)
_LEARNED = (
    "{}: the checkpoint has a learned classifier there ({}), and a fixed head no weight to load. "
    "Load it into the model as its library builds it, then replace_head(model, aligned=True), or "
    f"from_linear(layer), makes the nearest fixed head; {_WAYS_OUT}."
)
_NO_HEAD = f"{{}}: the checkpoint has something else there, no head of this kind; {_WAYS_OUT}."


def _differences(there: Any, here: dict[str, Any]) -> str:
    """Differences between two descriptions, for an error message; empty where there are none."""
    theirs, ours = identity(there), identity(here)
    if not isinstance(theirs, Mapping):
        return f"{there!r:.200}"
    if theirs.get("class") != ours["class"]:
        freeze = " (freeze() makes a fixed head of one that follows class means)"
        return f"{theirs.get('class')}, here {ours['class']}{freeze}"
    return "; ".join(
        f"{name} {_short(theirs.get(name))}, here {_short(ours.get(name))}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    )


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("arguments"), Mapping):
        arguments = ", ".join(f"{k}={_short(v)}" for k, v in value["arguments"].items())
        return f"{value.get('class')}({arguments})"
    return f"{value!r:.200}"


def _learned(state_dict: Mapping[str, Any], prefix: str, head: nn.Module) -> list[str]:
    """Weights and their shapes where the head has none of that name."""
    own = head.state_dict()
    return [
        f"{key} of shape {tuple(tensor.shape)}"
        for key, tensor in state_dict.items()
        if key.startswith(prefix) and key.endswith("weight") and key[len(prefix) :] not in own
    ]
