"""Between a head and a model: logits as the model expects them, and by task where it ends."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._recognised import Recognised
from etf_heads._spec import class_name
from etf_heads._tasks import Tasks


class HeadAdapter(Recognised):
    """A head in the place of a layer: same shape of logits, of all tasks side by side.

    Models average, index and flatten logits; what they do to one tensor they could not do to a
    dict. :class:`TaskOutputs` parts the tasks where the model returns them.

    Args:
        head: any head.
        channels_first: whether features are (B, d, ...), as convolutions take them, rather than
            (..., d).
        spatial_dims: of the convolution whose place it has, 1 to 3: what
            :func:`~etf_heads.surgery.merge` makes of it again.

    Example:
        >>> from etf_heads import CompoundETFHead
        >>> adapter = HeadAdapter(CompoundETFHead(16, [3, 2]), channels_first=True)
        >>> adapter(torch.randn(4, 16, 7, 7)).shape
        torch.Size([4, 5, 7, 7])
    """

    head: Any

    def __init__(
        self, head: nn.Module, *, channels_first: bool = False, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        self.head = head
        self.channels_first = channels_first
        self.spatial_dims = spatial_dims

    @property
    def in_features(self) -> int:
        """Number of features, d."""
        return self.head.in_features

    @property
    def out_features(self) -> int:
        """Number of classes of all tasks."""
        return self.head.out_features

    def definition(self) -> dict[str, Any]:
        """A note that a head is inside; its own description follows."""
        name = f"{HeadAdapter.__name__}({class_name(self.head)})"
        return {"class": name, "channels_first": self.channels_first}

    def forward(self, features: Tensor) -> Tensor:
        """Logits: (..., d) -> (..., sum K_t), or (B, d, ...) -> (B, sum K_t, ...)."""
        logits = self.head(features.movedim(1, -1) if self.channels_first else features)
        if not isinstance(logits, Tensor):
            parts = logits.values() if isinstance(logits, Mapping) else logits
            logits = torch.cat(list(parts), dim=-1)
        return logits.movedim(-1, 1) if self.channels_first else logits


class TaskOutputs:
    """A forward hook of a model: its logits, by task.

    It parts tensors, named or plain tuples of tensors (auxiliary and distilled logits), mappings,
    and the ``logits`` of what models of transformers return.

    Args:
        tasks: whose logits stand side by side.
        channels_first: whether the classes of logits of more than two dimensions are in
            dimension 1.
    """

    def __init__(self, tasks: Tasks, *, channels_first: bool = False) -> None:
        self.tasks = tasks
        self.channels_first = channels_first

    def __call__(self, model: nn.Module, _: Any, output: Any) -> Any:
        """The output that the model returns instead."""
        if isinstance(output, MutableMapping):
            names = [name for name in output if str(name).endswith("logits")] or list(output)
            for name in names:
                output[name] = self._part(model, output[name])
            return output
        if isinstance(output, tuple | list):
            parts = [self._part(model, logits) for logits in output]
            named = hasattr(output, "_fields")
            return type(output)(*parts) if named else type(output)(parts)
        return self._part(model, output)

    def _part(self, model: nn.Module, logits: Any) -> Any:
        if logits is None:
            return None
        total = self.tasks.total
        dim = 1 if self.channels_first and isinstance(logits, Tensor) and logits.ndim > 2 else -1
        if not isinstance(logits, Tensor) or logits.shape[dim] != total:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"{type(model).__name__} returned {shape} where logits of {total} classes "
                f"{list(self.tasks.sizes)} were expected: of a model of transformers, ask with "
                "return_dict=True"
            )
        return self.tasks.split(logits, dim)


def refuse_labels(model: nn.Module, _: Any, keywords: dict[str, Any]) -> None:
    """A forward hook: a loss over all tasks as if they were one would be silently wrong."""
    if keywords.get("labels") is not None:
        raise ValueError(
            f"{type(model).__name__} has the classifiers of several tasks and computes no loss: "
            "leave labels out, and sum the losses of output.logits by task"
        )
