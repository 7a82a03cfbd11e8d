"""The learned head that fixed ones are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads.heads._feature_norm import FeatureNorm, make_norm, normalised


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of copies of these."""
    layer = nn.Linear(weight.shape[1], len(weight), bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def joined_biases(
    biases: Sequence[Tensor | None], sizes: Sequence[int], like: Tensor
) -> Tensor | None:
    """Biases of several tasks side by side, zero where there is none; None if there are none."""
    if all(bias is None for bias in biases):
        return None
    pairs = zip(biases, sizes, strict=True)
    return torch.cat([like.new_zeros(k) if bias is None else bias for bias, k in pairs])


class LinearHead(nn.Module):
    r"""The usual classifier, ``nn.Linear``, with the interface of the fixed heads.

    The baseline of a comparison: :math:`z = W\,\mathrm{norm}(h) + b` with W and b learned, the
    same normalisation of the features that fixed heads offer, and logits by task. Weights start as
    in ``nn.Linear``.

    Args:
        in_features: d.
        tasks_or_classes: number of classes of the one task, or class counts of several by name or
            in order. Logits come as a tensor, a dict or a tuple, to match.
        bias: whether to learn a bias a class.
        feature_norm: "batch", "layer", "unit", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``.

    Attributes:
        weight: learned class vectors of all tasks below each other, (sum K_t, d).
        bias: (sum K_t,), or None.
        tasks: class counts, and names if there are any.
        norm: the normalisation, or None.

    Shape:
        features (..., d) to logits (..., K); a dict or tuple of (..., K_t) for several tasks.

    Raises:
        ValueError: if a size is not possible.

    Example:
        >>> head = LinearHead(8, {"left": 3, "right": 2}, feature_norm="layer")
        >>> {task: tuple(z.shape) for task, z in head(torch.randn(5, 8)).items()}
        {'left': (5, 3), 'right': (5, 2)}
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        tasks_or_classes: TaskSpec | Tasks,
        bias: bool = True,
        *,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = positive_int(in_features, "in_features")
        self.tasks = Tasks.parse(tasks_or_classes, "tasks_or_classes")
        self.out_features = self.tasks.total
        self.norm = make_norm(feature_norm, in_features, device=device, dtype=dtype)
        size = (self.out_features, in_features)
        self.weight = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype))
            if bias
            else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew, as ``nn.Linear`` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor] | tuple[Tensor, ...]:
        """Logits: (..., d) -> (..., K_t), one tensor a task."""
        logits = F.linear(self.prepare(features), self.weight, self.bias)
        return self.tasks.pack(logits.split(self.tasks.sizes, -1))

    def prepare(self, features: Tensor) -> Tensor:
        """Features as the class vectors meet them, normalised: (..., d) -> (..., d)."""
        return features if self.norm is None else normalised(self.norm, features)

    def task_weight(self, task: str | int) -> Tensor:
        """Class vectors of one task, (K_t, d)."""
        return self.weight[self.tasks.slices[self.tasks.index(task)]]

    @torch.no_grad()
    def linears(self) -> nn.ModuleDict:
        """Copies as one ``nn.Linear`` a task, by name or "0", "1", ..., without the norm."""
        weight, bias, rows = self.weight, self.bias, self.tasks.slices
        layers = (linear_of(weight[own], None if bias is None else bias[own]) for own in rows)
        return nn.ModuleDict(dict(zip(self.tasks.labels, layers, strict=True)))

    def extra_repr(self) -> str:
        """Sizes, for ``print(module)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
