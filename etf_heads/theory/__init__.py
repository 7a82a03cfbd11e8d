"""Theory of the unconstrained feature model: optimal heads and features.

``UnconstrainedFeatureModel`` is the objective; ``optimal_gram`` its global minimum for any joint
label distribution, with a proof, and ``unresolved_classes`` what that proof leaves open;
``balanced_optimum``, ``logit_gap``, ``zero_head_threshold``, ``binary_cosine``,
``minority_collapse_ratio`` and ``multi_label_optimum`` the cases that have a closed form;
``CrossEntropy``, ``Focal`` and ``SquaredError`` the losses they are known for; and
``regression_gram`` the regression counterpart. ``fixed_head_gap`` and ``fixed_head_optimum`` are
what a fixed head ends in, ``matched_scale`` and ``batch_norm_scale`` the scales to give it;
``sphere_optimum`` and ``unit_scale`` the same on the unit sphere. ``DeepUnconstrainedFeatureModel``
with ``deep_collapse_value``, ``triangular_graph_value`` and ``schatten_value`` has several layers,
``spectral_flow`` follows two of them in time, ``critical_points`` finds saddles. λ's are those
beside the mean loss; ``mean_loss_lambdas`` converts. Everything is float64.
"""

from etf_heads.theory._binary import binary_cosine
from etf_heads.theory._closed_form import (
    BalancedOptimum,
    balanced_optimum,
    logit_gap,
    zero_head_threshold,
)
from etf_heads.theory._counts import JointCounts
from etf_heads.theory._deep import (
    DeepUnconstrainedFeatureModel,
    deep_collapse_value,
    schatten_value,
    triangular_graph_value,
)
from etf_heads.theory._fixed_head import (
    FixedHeadOptimum,
    batch_norm_scale,
    fixed_head_gap,
    fixed_head_optimum,
    matched_scale,
)
from etf_heads.theory._imbalance import minority_collapse_ratio
from etf_heads.theory._landscape import CriticalPoint, critical_points
from etf_heads.theory._losses import CrossEntropy, Focal, GapLoss, SquaredError
from etf_heads.theory._multi_label import MultiLabelOptimum, multi_label_optimum
from etf_heads.theory._optimal_gram import OptimalGeometry, optimal_gram
from etf_heads.theory._regression import regression_gram
from etf_heads.theory._spectral_flow import spectral_flow
from etf_heads.theory._sphere import SphereOptimum, sphere_optimum, unit_scale
from etf_heads.theory._ufm import UnconstrainedFeatureModel, mean_loss_lambdas
from etf_heads.theory._unresolved import unresolved_classes

__all__ = [
    "BalancedOptimum",
    "CriticalPoint",
    "CrossEntropy",
    "DeepUnconstrainedFeatureModel",
    "FixedHeadOptimum",
    "Focal",
    "GapLoss",
    "JointCounts",
    "MultiLabelOptimum",
    "OptimalGeometry",
    "SphereOptimum",
    "SquaredError",
    "UnconstrainedFeatureModel",
    "balanced_optimum",
    "batch_norm_scale",
    "binary_cosine",
    "critical_points",
    "deep_collapse_value",
    "fixed_head_gap",
    "fixed_head_optimum",
    "logit_gap",
    "matched_scale",
    "mean_loss_lambdas",
    "minority_collapse_ratio",
    "multi_label_optimum",
    "optimal_gram",
    "regression_gram",
    "schatten_value",
    "spectral_flow",
    "sphere_optimum",
    "triangular_graph_value",
    "unit_scale",
    "unresolved_classes",
    "zero_head_threshold",
]
