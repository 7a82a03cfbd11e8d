"""Losses of features and head, which compute no logits where they can avoid it.

All are called as ``criterion(features, head, labels)``, with one or several tasks, labels missing
(-100) or not, and a fixed head or an ``nn.Linear``. :class:`FeaturePenalty` is added to one.
"""

from etf_heads.losses._alignment import alignment_penalty
from etf_heads.losses._centre_cosine import CentreCosine
from etf_heads.losses._contrast import NONL, NTCE
from etf_heads.losses._cross_entropy import CompoundCrossEntropy
from etf_heads.losses._dot_regression import DotRegression
from etf_heads.losses._feature_penalty import FeaturePenalty
from etf_heads.losses._focal import CompoundFocal
from etf_heads.losses._logit_adjusted import LogitAdjustedCrossEntropy, logit_prior
from etf_heads.losses._normalized import NormalizedCrossEntropy
from etf_heads.losses._pick_all_labels import PickAllLabelsCrossEntropy
from etf_heads.losses._squared_error import CompoundSquaredError

__all__ = [
    "NONL",
    "NTCE",
    "CentreCosine",
    "CompoundCrossEntropy",
    "CompoundFocal",
    "CompoundSquaredError",
    "DotRegression",
    "FeaturePenalty",
    "LogitAdjustedCrossEntropy",
    "NormalizedCrossEntropy",
    "PickAllLabelsCrossEntropy",
    "alignment_penalty",
    "logit_prior",
]
