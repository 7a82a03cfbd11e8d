"""What every code offers."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._spec import Specified
from etf_heads._tracing import call_recorded


class Code(Specified):
    """A matrix C of shape (rows, columns): class vectors in the coordinates of an orientation.

    Subclasses implement :meth:`expand` in whatever way is fastest; they need not store C.
    One that keeps its arguments under their own names can be saved and restored.

    Args:
        rows: number of class vectors, of all tasks together.
        columns: dimensions they span, or a few more.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns

    def expand(self, coordinates: Tensor) -> Tensor:
        """Products C z: (..., columns) -> (..., rows)."""
        raise NotImplementedError

    @property
    def softmax_scale(self) -> float | None:
        """The number that C is to a softmax over each task's rows, if it is no more than that.

        A softmax does not see what all scores of a task have in common, nor does the gradient of
        a loss on it.
        """
        return None

    def matrix(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Tensor:
        """C itself, shape (rows, columns), made on request."""
        return self.expand(torch.eye(self.columns, dtype=dtype, device=device)).mT

    def forward(self, coordinates: Tensor) -> Tensor:
        """Same as :meth:`expand`."""
        if (recorded := call_recorded(self, coordinates)) is not None:
            return recorded
        return self.expand(coordinates)
