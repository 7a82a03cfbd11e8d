"""Classifier heads of fixed geometry: same accuracy, nothing to learn, nothing to store.

Importing this needs torch and safetensors only. ``etf_heads.geometry``, ``.orientation``,
``.codes``, ``.theory``, ``.heads`` and ``.surgery`` come with it; ``etf_heads.collapse``, which
needs torchmetrics, is imported by its name.
"""

from etf_heads._tasks import Tasks
from etf_heads.heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
    SphericalCodeHead,
)
from etf_heads.surgery import narrow_features, replace_head, savings

__version__ = "0.1.0"

__all__ = [
    "ClassMeanHead",
    "CompoundETFHead",
    "CorrelatedETFHead",
    "ETFHead",
    "NearestETFHead",
    "SphericalCodeHead",
    "Tasks",
    "narrow_features",
    "replace_head",
    "savings",
]
