"""Orientations of codes in feature space: matrices U of orthonormal columns, mostly never stored.

Every head is ``logits = s * C (Uᵀ h)``; an orientation is the U. Structured ones (canonical,
tiled, Kronecker) hold no tensor at all. A new one is a subclass of :class:`Orientation` with
``project`` and ``lift``, or of :class:`StructuredOrientation` with ``raw_project`` and
``raw_lift``, and a row in ``tests/cases.py`` that gives it every check.
"""

from etf_heads.orientation._base import Orientation
from etf_heads.orientation._canonical import CanonicalOrientation
from etf_heads.orientation._dense import MatrixOrientation, RandomOrientation
from etf_heads.orientation._kronecker import KroneckerOrientation
from etf_heads.orientation._named import OrientationSpec, make_orientation
from etf_heads.orientation._stiefel import StiefelOrientation
from etf_heads.orientation._structured import StructuredOrientation
from etf_heads.orientation._tiled import TiledOrientation

__all__ = [
    "CanonicalOrientation",
    "KroneckerOrientation",
    "MatrixOrientation",
    "Orientation",
    "OrientationSpec",
    "RandomOrientation",
    "StiefelOrientation",
    "StructuredOrientation",
    "TiledOrientation",
    "make_orientation",
]
