"""Losses that know the head: they take features, and make no logits that they do not need.

All are called as ``criterion(features, head, labels)``, with one or several tasks, labels missing
(-100) or not, and a fixed head or an ``nn.Linear``.
"""

from etf_heads.losses._contrast import NONL, NTCE
from etf_heads.losses._cross_entropy import CompoundCrossEntropy
from etf_heads.losses._normalized import NormalizedCrossEntropy

__all__ = ["NONL", "NTCE", "CompoundCrossEntropy", "NormalizedCrossEntropy"]
