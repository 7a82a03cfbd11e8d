"""The axes and their negatives: up to two class vectors a dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._tasks import Tasks
from etf_heads.codes._base import Code
from etf_heads.codes._bases import BasesCode


class CrossPolytopeCode(BasesCode):
    r"""Class vectors :math:`\pm e_i`: at most 2n of them, no cosine above 0.

    The best possible for d + 2 to 2d classes (Rankin 1955). Scores are the coordinates
    themselves. Several tasks stand in dimensions of their own.

    Args:
        tasks: K for one task, class counts by name or in order for several.
        columns: n, at least :math:`\sum_t \lceil K_t/2 \rceil`, which None stands for.

    Raises:
        ValueError: if there are fewer columns.

    Example:
        >>> CrossPolytopeCode(4).matrix(dtype=torch.float32)
        tensor([[ 1.,  0.],
                [-1., -0.],
                [ 0.,  1.],
                [-0., -1.]])
    """

    _way_out = "; etf_heads.codes.KerdockCode has more vectors"

    @classmethod
    def room(cls, columns: int) -> int:
        """One line a dimension."""
        return columns

    @property
    def coherence(self) -> float:
        """0."""
        return 0.0

    def sign_vectors(self, indices: Tensor) -> Tensor:
        """None: there is one basis."""
        return torch.ones(*indices.shape, self.columns, dtype=torch.int8)

    @classmethod
    def _narrowest(cls, tasks: Tasks) -> int:
        return cls.count_lines(tasks)

    def fitting(self, in_features: int, columns: int | None = None) -> Code:
        """The code in a feature space: with no more columns than it needs.

        Raises:
            ValueError: if the classes are more than two a dimension.
        """
        if not self._any_columns:
            return super().fitting(in_features, columns)
        if columns is None and self.columns > in_features:
            raise ValueError(self._too_many(in_features, in_features))
        return CrossPolytopeCode(self.tasks, columns or self.columns, device=self.signs.device)
