"""Losses that know the head: they take features, and make no logits that they do not need."""

from etf_heads.losses._cross_entropy import CompoundCrossEntropy

__all__ = ["CompoundCrossEntropy"]
