"""The head of one task."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from etf_heads._tasks import Tasks, class_count
from etf_heads.codes import SimplexCode
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.heads._fixed import FixedHead
from etf_heads.orientation import OrientationSpec


class ETFHead(FixedHead):
    r"""A classifier fixed to a simplex ETF: the drop-in for ``nn.Linear(in_features, classes)``.

    Zhu et al., "A geometric analysis of neural collapse with unconstrained features" (NeurIPS
    2021) fix the last layer to a simplex ETF and find the accuracy unchanged. The class vectors
    are the rows of

    .. math:: W = s \sqrt{\tfrac{K}{K-1}} \left(I - \tfrac1K \mathbf 1\mathbf 1^\top\right) U^\top

    (K columns of U), or the same frame in Helmert form when in_features = K - 1. No weight
    matrix exists in forward or backward unless the orientation stores one. By default there are
    no parameters and ``state_dict`` is empty.

    Args:
        in_features: d, at least out_features - 1.
        out_features: K, the number of classes, at least 2.
        bias: whether to learn a bias a class. A balanced problem needs none.
        orientation: "tiled" (default), "hadamard", "canonical", "random:SEED", "learned"
            (with an optimiser of geoopt), a matrix U of shape (d, K) or (d, K - 1) with
            orthonormal columns, or an :class:`~etf_heads.orientation.Orientation`.
        scale: s, the length of the class vectors.
        learn_scale: learn s (one number), from there.
        feature_norm: "batch", "layer", "unit", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``.

    Shape:
        features (..., d) to logits (..., K).

    Raises:
        ValueError: if K - 1 > d, or an option is not one of those named.

    Note:
        Zhu et al. use the first K coordinates, here ``orientation="canonical"``.

    Example:
        >>> head = ETFHead(512, 100)
        >>> head(torch.randn(8, 512)).shape, sum(p.numel() for p in head.parameters())
        (torch.Size([8, 100]), 0)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        orientation: OrientationSpec | None = None,
        scale: float = 1.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            SimplexCode(class_count(out_features, "out_features")),
            orientation,
            bias,
            scale=scale,
            learn_scale=learn_scale,
            feature_norm=feature_norm,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_arguments(cls, tasks: Tasks | None = None, **arguments: Any) -> Self:
        """A head of this class from its parts; former versions listed its one task.

        Raises:
            ValueError: if the code is of several tasks.
        """
        code = arguments["code"]
        if len(code.tasks) != 1:
            raise ValueError(f"{cls.__name__} has one task, the code {len(code.tasks)}")
        code.tasks = Tasks.parse(code.tasks.total)
        return super().from_arguments(tasks, **arguments)

    def to_linear(self, bias: bool | None = None) -> nn.Linear:
        """An ``nn.Linear`` with the same logits, for exporters and other tools.

        A "batch" normalisation is folded in with its running statistics (as in eval mode).

        Args:
            bias: True for a layer with a bias, zero where there is none, as most architectures
                load it; False for one without; None for what the head needs.

        Raises:
            ValueError: if another normalisation stands before the head, or ``bias=False`` would
                lose a bias that is not zero.
        """
        return self._linears(bias)[0]
