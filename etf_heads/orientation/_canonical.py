"""U = the first n coordinates."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from etf_heads.orientation._base import Orientation


class CanonicalOrientation(Orientation):
    """The code stands in the first n features; the others never reach the logits.

    A simplex head in this orientation is, under softmax cross-entropy, a slice of the features.

    Example:
        >>> import torch
        >>> CanonicalOrientation(5, 2).project(torch.arange(5.0))
        tensor([0., 1.])
    """

    def project(self, features: Tensor) -> Tensor:
        """First n features: (..., d) -> (..., n)."""
        return features[..., : self.columns]

    def lift(self, coordinates: Tensor) -> Tensor:
        """Zeros behind the coordinates: (..., n) -> (..., d)."""
        return F.pad(coordinates, (0, self.in_features - self.columns))
