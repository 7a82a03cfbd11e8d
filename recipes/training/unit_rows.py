"""Class vectors of one length, learned by their directions; the length, too, if asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization


class UnitRows(nn.Module):
    """Rows of a weight matrix divided by their length, times a number, as a parametrisation."""

    def __init__(self, scale: float, *, learn_scale: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale)) if learn_scale else scale

    def forward(self, weight: Tensor) -> Tensor:
        """(K, d) to (K, d)."""
        return self.scale * F.normalize(weight, dim=1)


def with_unit_rows(head: nn.Module, scale: float, *, learn_scale: bool = False) -> nn.Module:
    """A head whose ``weight`` has rows of one length from now on, in place."""
    register_parametrization(head, "weight", UnitRows(scale, learn_scale=learn_scale))
    return head
