"""Orientations by name."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._precision import check_dtype
from etf_heads.orientation._base import Orientation
from etf_heads.orientation._canonical import CanonicalOrientation
from etf_heads.orientation._dense import MatrixOrientation, RandomOrientation
from etf_heads.orientation._kronecker import KroneckerOrientation
from etf_heads.orientation._stiefel import StiefelOrientation
from etf_heads.orientation._tiled import TiledOrientation

OrientationSpec = str | Tensor | Orientation
"""A name, a matrix of orthonormal columns, or an orientation object."""

_STRUCTURED: dict[str, type[Orientation]] = {
    "canonical": CanonicalOrientation,
    "tiled": TiledOrientation,
    "hadamard": KroneckerOrientation,
}
_DEFAULT = "tiled"
NAMES = (*_STRUCTURED, "random", "random:SEED", "learned")


def make_orientation(
    spec: OrientationSpec | None,
    in_features: int,
    columns: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Orientation:
    """An orientation by name, from a matrix, or an orientation object checked and passed on.

    Args:
        spec: "canonical", "tiled", "hadamard", "random" (seed 0), "random:SEED" or
            "learned" (needs an optimiser of geoopt, see :class:`StiefelOrientation`); a matrix
            of shape (in_features, n) with orthonormal columns; or an :class:`Orientation`. None
            for the default, "tiled".
        in_features: size of the features.
        columns: what a named orientation gets; others bring their own.
        device: where a stored matrix lives.
        dtype: what it is kept in.

    Raises:
        ValueError: for an unknown name, a size that does not fit, or a dtype that is not a real
            floating-point one.

    Example:
        >>> make_orientation("random:7", 8, 3)
        RandomOrientation(in_features=8, columns=3, seed=7)
    """
    check_dtype(dtype)
    if spec is None:
        spec = _DEFAULT
    if isinstance(spec, Tensor):
        if device is None and not spec.is_meta:
            device = torch.get_default_device()
        spec = MatrixOrientation(spec).to(device=device, dtype=dtype)
    if isinstance(spec, Orientation):
        if spec.in_features != in_features:
            raise ValueError(
                f"the orientation is made for {spec.in_features} features, "
                f"but in_features={in_features}"
            )
        return spec
    if isinstance(spec, str) and spec in _STRUCTURED:
        return _STRUCTURED[spec](in_features, columns)
    if spec == "learned":
        return StiefelOrientation(in_features, columns, device=device, dtype=dtype)
    name, _, seed = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if name == "random" and (seed or "0").isdecimal():
        return RandomOrientation(in_features, columns, int(seed or 0), device=device, dtype=dtype)
    raise ValueError(
        f"unknown orientation {spec!r}: choose from {', '.join(NAMES)}, a matrix of orthonormal "
        "columns, or an Orientation"
    )
