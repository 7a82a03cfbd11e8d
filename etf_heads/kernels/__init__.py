"""Compiled kernels for the CPU, optional: heads and their cross-entropy in one pass.

They are compiled when the package is installed from source on a machine with a C++ compiler;
:func:`status` says whether they are there. With them,
:class:`~etf_heads.losses.CompoundCrossEntropy` computes the same numbers in less time; without
them, nothing else changes. ``ETF_HEADS_KERNELS=0`` in the environment, or :func:`enable`, turns
them off.
"""

from etf_heads.kernels._bases import bases_logsumexp, best_of_bases, takes_bases
from etf_heads.kernels._cross_entropy import Geometry, mean_cross_entropies, takes
from etf_heads.kernels._library import (
    enable,
    enable_experimental_triton,
    is_enabled,
    status,
)

__all__ = [
    "Geometry",
    "bases_logsumexp",
    "best_of_bases",
    "enable",
    "enable_experimental_triton",
    "is_enabled",
    "mean_cross_entropies",
    "status",
    "takes",
    "takes_bases",
]
