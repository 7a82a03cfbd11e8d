"""Drop-in classifier heads of fixed geometry: modules made of a code and an orientation.

:class:`FixedHead` is the head of any code; :class:`ETFHead`, :class:`CompoundETFHead` and
:class:`CorrelatedETFHead` choose one, :class:`SphericalCodeHead` one for any number of classes,
:class:`FixedRegressionHead` one for the targets of a regression. Others follow the class means of
the features they see: :class:`NearestETFHead`, :class:`ClassMeanHead`, and for many classes
:class:`PrototypeHead`. :func:`from_linear` and :func:`from_features` fit a fixed head to a network
that is trained already. :func:`to_spec` gives the specification of a head, for JSON, and
:func:`from_spec` makes the head again.
"""

from etf_heads.heads._align import align_
from etf_heads.heads._assignment import assign_classes
from etf_heads.heads._base import Head
from etf_heads.heads._class_means import ClassMeanHead
from etf_heads.heads._compound import CompoundETFHead
from etf_heads.heads._correlated import CorrelatedETFHead
from etf_heads.heads._etf import ETFHead
from etf_heads.heads._feature_norm import FeatureNorm, feature_norm
from etf_heads.heads._fixed import FixedHead
from etf_heads.heads._from_trained import from_features, from_linear
from etf_heads.heads._linear import LinearHead
from etf_heads.heads._multi_source import MultiSourceHead
from etf_heads.heads._nearest import NearestETFHead
from etf_heads.heads._prototypes import PrototypeHead
from etf_heads.heads._regression import FixedRegressionHead
from etf_heads.heads._spec import check_frame, from_spec, same_head, to_spec
from etf_heads.heads._spherical import SphericalCodeHead

__all__ = [
    "ClassMeanHead",
    "CompoundETFHead",
    "CorrelatedETFHead",
    "ETFHead",
    "FeatureNorm",
    "FixedHead",
    "FixedRegressionHead",
    "Head",
    "LinearHead",
    "MultiSourceHead",
    "NearestETFHead",
    "PrototypeHead",
    "SphericalCodeHead",
    "align_",
    "assign_classes",
    "check_frame",
    "feature_norm",
    "from_features",
    "from_linear",
    "from_spec",
    "same_head",
    "to_spec",
]
