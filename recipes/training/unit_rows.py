"""Class vectors of one length, learned by their directions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class UnitRows(nn.Module):
    """Rows of a weight matrix divided by their length, times a number, as a parametrisation."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """(K, d) to (K, d)."""
        return self.scale * F.normalize(weight, dim=1)
