"""The base class of orientations."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._spec import Specified
from etf_heads._tasks import positive_int
from etf_heads._tracing import call_recorded


class Orientation(Specified):
    r"""A matrix U of shape (d, n) with orthonormal columns, :math:`U^\top U = I`.

    Subclasses implement :meth:`project` and :meth:`lift` in whatever way is fastest; they need
    not store U. One that keeps its arguments under their own names can be saved and restored.

    Args:
        in_features: d, the size of the features.
        columns: n, at most d.

    Raises:
        ValueError: if n > d, or either is not a positive integer.
    """

    def __init__(self, in_features: int, columns: int) -> None:
        super().__init__()
        self.in_features = positive_int(in_features, "in_features")
        self.columns = positive_int(columns, "columns")
        if columns > in_features:
            raise ValueError(
                f"{columns} orthonormal columns do not fit into in_features={in_features} "
                f"dimensions: at most {in_features} do"
            )

    def project(self, features: Tensor, scale: float = 1.0) -> Tensor:
        """Coordinates Uᵀ h of features h, times a number: (..., d) -> (..., n)."""
        raise NotImplementedError

    def lift(self, coordinates: Tensor) -> Tensor:
        """Features U z with the coordinates z: (..., n) -> (..., d)."""
        raise NotImplementedError

    def matrix(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Tensor:
        """U itself, shape (d, n), made on request."""
        return self.lift(torch.eye(self.columns, dtype=dtype, device=device)).mT

    def forward(self, features: Tensor, scale: float = 1.0, centred: int = 0) -> Tensor:
        """Coordinates s Uᵀ h, and on request centred: (..., d) -> (..., n).

        Args:
            features: (..., d).
            scale: s.
            centred: how many neighbouring coordinates have mean zero afterwards; 0 for none.
        """
        if (recorded := call_recorded(self, features, scale, centred)) is not None:
            return recorded
        # Orientations of users need not take a scale where there is none.
        coordinates = self.project(features) if scale == 1 else self.project(features, scale)
        return centre(coordinates, centred) if centred else coordinates

    def extra_repr(self) -> str:
        """Sizes, for ``print(module)``."""
        return f"in_features={self.in_features}, columns={self.columns}"


def centre(coordinates: Tensor, size: int) -> Tensor:
    """Coordinates less the mean of each ``size`` neighbours: (..., n) -> (..., n)."""
    grid = coordinates.unflatten(-1, (-1, size))
    return (grid - grid.mean(-1, keepdim=True)).flatten(-2)
