"""What the unconstrained feature model says that heads and features should be.

``UnconstrainedFeatureModel`` is the objective; ``optimal_gram`` its global minimum for any joint
label distribution, with a proof, and ``unresolved_classes`` what that proof leaves open;
``balanced_optimum``, ``logit_gap``, ``zero_head_threshold``,
``binary_cosine`` and ``minority_collapse_ratio`` the cases that have a closed form; and
``regression_gram`` the regression counterpart. λ's are those beside the mean loss;
``mean_loss_lambdas`` converts. Everything is float64.
"""

from etf_heads.theory._binary import binary_cosine
from etf_heads.theory._closed_form import (
    BalancedOptimum,
    balanced_optimum,
    logit_gap,
    zero_head_threshold,
)
from etf_heads.theory._counts import JointCounts
from etf_heads.theory._imbalance import minority_collapse_ratio
from etf_heads.theory._losses import CrossEntropy, Focal, GapLoss, SquaredError
from etf_heads.theory._optimal_gram import OptimalGeometry, optimal_gram
from etf_heads.theory._regression import regression_gram
from etf_heads.theory._ufm import UnconstrainedFeatureModel, mean_loss_lambdas
from etf_heads.theory._unresolved import unresolved_classes

__all__ = [
    "BalancedOptimum",
    "CrossEntropy",
    "Focal",
    "GapLoss",
    "JointCounts",
    "OptimalGeometry",
    "SquaredError",
    "UnconstrainedFeatureModel",
    "balanced_optimum",
    "binary_cosine",
    "logit_gap",
    "mean_loss_lambdas",
    "minority_collapse_ratio",
    "optimal_gram",
    "regression_gram",
    "unresolved_classes",
    "zero_head_threshold",
]
