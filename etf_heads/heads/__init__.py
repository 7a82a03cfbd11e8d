"""Drop-in classifier heads of fixed geometry: ``nn.Module`` s made of a code and an orientation."""

from etf_heads.heads._base import FixedHead
from etf_heads.heads._compound import CompoundETFHead
from etf_heads.heads._correlated import CorrelatedETFHead
from etf_heads.heads._etf import ETFHead
from etf_heads.heads._feature_norm import FeatureNorm, feature_norm

__all__ = [
    "CompoundETFHead",
    "CorrelatedETFHead",
    "ETFHead",
    "FeatureNorm",
    "FixedHead",
    "feature_norm",
]
