"""Classifier heads of fixed geometry: same accuracy, nothing to learn, nothing to store.

Importing this needs torch only. ``etf_heads.geometry``, ``.orientation`` and ``.codes`` come with
it; ``etf_heads.collapse`` (torchmetrics) and ``etf_heads.theory`` are imported by their names.
"""

from etf_heads.heads import ClassMeanHead, CompoundETFHead, ETFHead, NearestETFHead

__version__ = "0.1.0"

__all__ = ["ClassMeanHead", "CompoundETFHead", "ETFHead", "NearestETFHead"]
