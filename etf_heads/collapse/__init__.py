"""Measuring neural collapse: one-pass class statistics, then named numbers. No head is needed.

A measure (``SingleTaskCollapse``, ``MultiTaskCollapse``, ...) is a :class:`torchmetrics.Metric`:
``update(features, labels)`` with every batch, on any number of processes, then
``compute(weight)`` for a dict of floats. Each has a twin that is a function of
:class:`ClassStatistics`. In every measure 0 means collapsed.
"""

from etf_heads.collapse._decisions import NearestCentreDisagreement
from etf_heads.collapse._multitask import (
    MultiTaskCollapse,
    multi_task_collapse,
    per_task_statistics,
)
from etf_heads.collapse._single import (
    SingleTaskCollapse,
    class_distance_normalised_variance,
    single_task_collapse,
)
from etf_heads.collapse._statistics import ClassStatistics

__all__ = [
    "ClassStatistics",
    "MultiTaskCollapse",
    "NearestCentreDisagreement",
    "SingleTaskCollapse",
    "class_distance_normalised_variance",
    "multi_task_collapse",
    "per_task_statistics",
    "single_task_collapse",
]
