"""Heads for tasks that have samples of their own, one head a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from etf_heads._labels import NO_LABEL, Labels, stack_labels
from etf_heads._tasks import Tasks
from etf_heads.heads._base import Head
from etf_heads.heads._feature_norm import FeatureNorm, make_norm, normalised
from etf_heads.heads._linear import joined_biases
from etf_heads.heads._observing import ObservingHead


class MultiSourceHead(nn.Module):
    r"""Heads of one task each on the same features, for tasks that label samples of their own.

    In multi-source learning ("Neural Collapse in Multi-Task Learning") tasks meet in the features
    only, so what is optimal, or nearest to the class means, is so for each task alone, and their
    class vectors may share dimensions: d need only hold the largest task. Heads of any kind go
    together. Give those with a fixed orientation different ones (``orientation="random:0"``,
    ``"random:1"``), or the first classes of all tasks share a vector.

    Args:
        heads: heads of one task each, by task name or in order, all of the same features and
            without a normalisation of their own.
        feature_norm: one for all of them: "batch", "layer", "unit", a module, or None.

    Attributes:
        heads: the heads, an ``nn.ModuleList``.
        tasks: class counts, and names if there are any.
        norm: the normalisation, or None.

    Shape:
        features (..., d) to a dict or tuple of logits (..., K_t).

    Raises:
        ValueError: if there is no head, or one does not fit the others.

    Example:
        >>> from etf_heads import ETFHead, NearestETFHead
        >>> head = MultiSourceHead(
        ...     {"animals": ETFHead(8, 5, orientation="random:0"), "plants": NearestETFHead(8, 4)},
        ...     feature_norm="batch",
        ... )
        >>> labels = torch.tensor([[0, -100], [4, -100], [-100, 3]])
        >>> {task: tuple(z.shape) for task, z in head(torch.randn(3, 8), labels).items()}
        {'animals': (3, 5), 'plants': (3, 4)}
    """

    def __init__(
        self, heads: Mapping[str, Head] | Sequence[Head], *, feature_norm: FeatureNorm = None
    ) -> None:
        super().__init__()
        parts = list(heads.values()) if isinstance(heads, Mapping) else list(heads)
        names = tuple(heads) if isinstance(heads, Mapping) else None
        for name, part in zip(names or range(len(parts)), parts, strict=True):
            _check(part, f"heads[{name!r}]")
        widths = sorted({part.in_features for part in parts})
        if len(widths) != 1:
            raise ValueError(
                f"heads must be of the same features, one or more of them; got in_features {widths}"
            )
        self.tasks = Tasks(tuple(part.tasks.total for part in parts), names)
        self.in_features, self.out_features = widths[0], self.tasks.total
        like = parts[0]._like
        self.norm = make_norm(feature_norm, self.in_features, device=like.device, dtype=like.dtype)
        self.heads = nn.ModuleList(parts)

    def forward(
        self, features: Tensor, labels: Labels | None = None
    ) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """Logits of each task: (..., d) -> (..., K_t).

        Args:
            features: (..., d).
            labels: of each task, (...), by name or in order; -100 for none. In training mode heads
                that follow the class means observe their own task's samples first, and the logits
                of all others are 0 then.
        """
        features = self.prepare(features)
        columns: Sequence[Tensor | None] = [None] * len(self.heads)
        if labels is not None and self.training:
            columns = stack_labels(labels, self.tasks, tuple(features.shape[:-1])).unbind(-1)
        logits = [
            _logits(head, features, column)
            for head, column in zip(self._parts, columns, strict=True)
        ]
        packed = self.tasks.pack(logits)
        assert not isinstance(packed, Tensor)  # noqa: S101 (tasks have names, or are listed)
        return packed

    def prepare(self, features: Tensor) -> Tensor:
        """Features as the class vectors meet them, normalised: (..., d) -> (..., d)."""
        return features if self.norm is None else normalised(self.norm, features)

    @property
    def weight(self) -> Tensor:
        """Dense class vectors, (sum K_t, d), made on request."""
        return torch.cat([head.weight for head in self._parts])

    def task_weight(self, task: str | int) -> Tensor:
        """Dense class vectors of one task, (K_t, d)."""
        return self._parts[self.tasks.index(task)].weight

    @property
    def bias(self) -> Tensor | None:
        """Biases, (sum K_t,), zero for heads that have none; None if no head has any."""
        parts = self._parts
        return joined_biases([head.bias for head in parts], self.tasks.sizes, parts[0]._like)

    @property
    def _parts(self) -> list[Head]:
        return [cast(Head, head) for head in self.heads]


def _check(head: Head, argument: str) -> None:
    if not isinstance(head, Head) or len(head.tasks) != 1:
        kind = (
            f"{type(head).__name__} of {len(head.tasks)} tasks"
            if isinstance(head, Head)
            else (type(head).__name__)
        )
        raise ValueError(f"{argument} must be a head of one task, got {kind}")
    if head.norm is not None:
        raise ValueError(
            f"{argument} has a normalisation of its own: build it with feature_norm=None, and give "
            "feature_norm to MultiSourceHead, which has one for all tasks"
        )


def _logits(head: Head, features: Tensor, labels: Tensor | None) -> Tensor:
    """Logits (..., K) of one head; with labels (...), observed first where it follows them."""
    if labels is None or not isinstance(head, ObservingHead):
        return head.all_logits(features)
    own = labels != NO_LABEL
    found = head(features[own], labels[own])
    logits = found if isinstance(found, Tensor) else head.tasks.unpack(found, "logits")[0]
    return logits.new_zeros(*own.shape, logits.shape[-1]).index_put((own,), logits)
