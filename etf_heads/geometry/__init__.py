"""Frames and the bases they are made of: pure functions of numbers and tensors.

Rows are class vectors, as in ``nn.Linear.weight``. Everything is exact in float64, the default
dtype here. Nothing in this package holds state.
"""

from etf_heads.geometry._compound import compound_etf
from etf_heads.geometry._nearest import Solver, nearest_etf, nearest_orientation
from etf_heads.geometry._polar import polar
from etf_heads.geometry._riemannian import riemannian_polar
from etf_heads.geometry._simplex import (
    helmert,
    helmert_contract,
    helmert_expand,
    simplex_etf,
    simplex_gram,
    simplex_scale,
)
from etf_heads.geometry._transforms import dct, hadamard

__all__ = [
    "Solver",
    "compound_etf",
    "dct",
    "hadamard",
    "helmert",
    "helmert_contract",
    "helmert_expand",
    "nearest_etf",
    "nearest_orientation",
    "polar",
    "riemannian_polar",
    "simplex_etf",
    "simplex_gram",
    "simplex_scale",
]
