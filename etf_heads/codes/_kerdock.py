"""Codes of bases whose vectors make small angles: Kerdock, Gold, Delsarte-Goethals."""

from __future__ import annotations

import math

from torch import Tensor

from etf_heads.codes._bases import BasesCode
from etf_heads.geometry import delsarte_goethals_signs, gold_signs, kerdock_signs


class KerdockCode(BasesCode):
    r"""Up to n(n + 2) class vectors with no cosine above :math:`1/\sqrt n`, n a power of four.

    The identity and the n/2 bases of :func:`~etf_heads.geometry.kerdock_signs`, with both signs.
    Levenshtein's bound for so many vectors is hardly below :math:`1/\sqrt n`, and from one basis
    on the distance of each from the convex hull of the others is :math:`1 - 1/\sqrt n`.

    Args:
        tasks: K for one task, class counts by name or in order for several.
        columns: n, a power of four; None for the largest in the feature space.

    Raises:
        ValueError: if the classes are more than there are vectors, or n is no power of four.

    Example:
        >>> code = KerdockCode(288, columns=16)
        >>> C = code.matrix()
        >>> C.shape, code.coherence, round(float((C @ C.T).fill_diagonal_(-1).max()), 6)
        (torch.Size([288, 16]), 0.25, 0.25)
    """

    _way_out = "; etf_heads.codes.DelsarteGoethalsCode has more, at twice the cosine"

    quadratic = True

    @classmethod
    def room(cls, columns: int) -> int:
        """There are n (n/2 + 1) lines for powers of four from 4 to 65,536."""
        return columns * (columns // 2 + 1) if _power_of_four(columns) else 0

    @property
    def coherence(self) -> float:
        r""":math:`1/\sqrt n`; 0 within one basis."""
        return 1 / math.sqrt(self.columns) if self.bases > 1 else 0.0

    def sign_vectors(self, indices: Tensor) -> Tensor:
        """Signs of the bases after the identity."""
        return kerdock_signs(self.columns, indices)


class DelsarteGoethalsCode(BasesCode):
    r"""Up to 2n (n²/4 + 1) class vectors with no cosine above :math:`2/\sqrt n`.

    The identity and the bases of :func:`~etf_heads.geometry.delsarte_goethals_signs`, with both
    signs: 8.4 million class vectors in 256 dimensions.

    Args:
        tasks: K for one task, class counts by name or in order for several.
        columns: n, a power of four from 16; None for the largest in the feature space.

    Raises:
        ValueError: if the classes are more than there are vectors, or n is no such power.

    Example:
        >>> import torch
        >>> code = DelsarteGoethalsCode(1000, columns=16)
        >>> code.coherence, code.vectors(torch.tensor([7, 999])).shape
        (0.5, torch.Size([2, 16]))
    """

    quadratic = True

    @classmethod
    def room(cls, columns: int) -> int:
        """There are n (n²/4 + 1) lines for powers of four from 16 to 65,536."""
        return columns * (columns**2 // 4 + 1) if _power_of_four(columns) and columns > 4 else 0

    @property
    def coherence(self) -> float:
        r""":math:`2/\sqrt n`; less while the bases are those of a Kerdock code."""
        if self.bases > self.columns // 2 + 1:
            return 2 / math.sqrt(self.columns)
        return 1 / math.sqrt(self.columns) if self.bases > 1 else 0.0

    def sign_vectors(self, indices: Tensor) -> Tensor:
        """Signs of the bases after the identity."""
        return delsarte_goethals_signs(self.columns, indices)


class GoldCode(BasesCode):
    r"""Up to 2n(n + 1) class vectors with no cosine above :math:`\sqrt{2/n}`, n = 8, 32, 128, ...

    The identity and the n bases of :func:`~etf_heads.geometry.gold_signs`, with both signs, for
    feature spaces between two powers of four. Half of all cosines between bases are 0.

    Args:
        tasks: K for one task, class counts by name or in order for several.
        columns: n, twice a power of four; None for the largest in the feature space.

    Raises:
        ValueError: if the classes are more than there are vectors, or n is no such number.

    Example:
        >>> import torch
        >>> code = GoldCode(144, columns=8)
        >>> code.coherence, code.vectors(torch.tensor([7, 143])).shape
        (0.5, torch.Size([2, 8]))
    """

    quadratic = True

    @classmethod
    def room(cls, columns: int) -> int:
        """There are n (n + 1) lines for twice a power of four from 8 to 32,768."""
        fits = columns % 2 == 0 and _power_of_four(columns // 2) and 8 <= columns <= 2**15
        return columns * (columns + 1) if fits else 0

    @property
    def coherence(self) -> float:
        r""":math:`\sqrt{2/n}`; 0 within one basis."""
        return math.sqrt(2 / self.columns) if self.bases > 1 else 0.0

    def sign_vectors(self, indices: Tensor) -> Tensor:
        """Signs of the bases after the identity."""
        return gold_signs(self.columns, indices)


def _power_of_four(n: int) -> bool:
    return 4 <= n <= 2**16 and n & (n - 1) == 0 and n.bit_length() % 2 == 1
