"""Frames and the bases they are made of: pure functions of numbers and tensors.

Rows are class vectors, as in ``nn.Linear.weight``. Everything is exact in float64, the default
dtype here. Nothing in this package holds state.
"""

from etf_heads.geometry._bounds import levenshtein_bound, rankin_bound, welch_bound
from etf_heads.geometry._compound import compound_etf
from etf_heads.geometry._hadamard_init import hadamard_init
from etf_heads.geometry._hull import one_vs_rest_distance
from etf_heads.geometry._nearest import Solver, nearest_etf, nearest_orientation
from etf_heads.geometry._polar import polar
from etf_heads.geometry._riemannian import riemannian_polar
from etf_heads.geometry._sign_vectors import delsarte_goethals_signs, gold_signs, kerdock_signs
from etf_heads.geometry._simplex import (
    helmert,
    helmert_contract,
    helmert_expand,
    simplex_etf,
    simplex_gram,
    simplex_scale,
)
from etf_heads.geometry._softmax_code import softmax_code
from etf_heads.geometry._transforms import dct, hadamard
from etf_heads.geometry._walsh_hadamard import WalshHadamard, hadamard_rows

__all__ = [
    "Solver",
    "WalshHadamard",
    "compound_etf",
    "dct",
    "delsarte_goethals_signs",
    "gold_signs",
    "hadamard",
    "hadamard_init",
    "hadamard_rows",
    "helmert",
    "helmert_contract",
    "helmert_expand",
    "kerdock_signs",
    "levenshtein_bound",
    "nearest_etf",
    "nearest_orientation",
    "one_vs_rest_distance",
    "polar",
    "rankin_bound",
    "riemannian_polar",
    "simplex_etf",
    "simplex_gram",
    "simplex_scale",
    "softmax_code",
    "welch_bound",
]
