"""U = the first n coordinates."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from etf_heads.orientation._structured import StructuredOrientation


class CanonicalOrientation(StructuredOrientation):
    """The code stands in the first n features; the others never reach the logits.

    A simplex head in this orientation is, under softmax cross-entropy, a slice of the features.

    Example:
        >>> import torch
        >>> CanonicalOrientation(5, 2).project(torch.arange(5.0))
        tensor([0., 1.])
    """

    def raw_project(self, features: Tensor, scale: float) -> Tensor:
        """First n features: (..., d) -> (..., n)."""
        return features[..., : self.columns] * scale

    def raw_lift(self, coordinates: Tensor, scale: float) -> Tensor:
        """Zeros behind the coordinates: (..., n) -> (..., d)."""
        return F.pad(coordinates * scale, (0, self.in_features - self.columns))
