"""Measuring neural collapse: one-pass class statistics, then named numbers. No head is needed.

A measure is a :class:`torchmetrics.Metric`: ``update(features, labels)`` with every batch, on any
number of processes, then ``compute(weight)`` for a dict of floats. In nearly all of them 0 means
collapsed (each class says so).

- One task: :class:`SingleTaskCollapse` (NC1 to NC5), :class:`VarianceCollapse` (training against
  test data), :class:`ManyClassCollapse` (more classes than a simplex ETF has room for),
  :class:`MultiLabelCollapse` (samples with several labels).
- Several: :class:`MultiTaskCollapse` (tasks that share their samples), and
  :class:`MultiSourceCollapse` (tasks with samples of their own).
- :class:`RegressionCollapse`; and :class:`LayerwiseCollapse`, any of these at several depths.
- Their twins ``single_task_collapse``, ``multi_task_collapse``, ... are pure functions of
  :class:`ClassStatistics`, or of covariances.
- :class:`NearestCentreDisagreement` and :class:`MultiSourceDisagreement`, made by a measure's
  ``decisions``, are the second pass that NC4 and S_NC5 need.
- :func:`forgetting` of tasks learned one after the other, by the classifier and by the features;
  :class:`BufferDistortion` of the images that are replayed against it.
- :func:`error_exponent` of class vectors and means, :func:`separation_fuzziness` with
  :func:`separation_law` from layer to layer, :func:`geometric_complexity` of a network on data.
- ``plot_values``, ``plot_gram``, ``plot_cosines``, ``plot_class_plane`` and ``plot_layers`` draw
  (with matplotlib).
"""

from etf_heads.collapse._buffer import BufferDistortion
from etf_heads.collapse._decisions import MultiSourceDisagreement, NearestCentreDisagreement
from etf_heads.collapse._exponent import error_exponent
from etf_heads.collapse._forgetting import forgetting
from etf_heads.collapse._geometric import geometric_complexity
from etf_heads.collapse._layers import LayerwiseCollapse, pooled
from etf_heads.collapse._many_classes import (
    ManyClassCollapse,
    many_class_collapse,
    one_versus_rest_margin,
)
from etf_heads.collapse._metric import CollapseMetric
from etf_heads.collapse._multi_label import MultiLabelCollapse, multi_label_collapse
from etf_heads.collapse._multisource import MultiSourceCollapse, multi_source_collapse
from etf_heads.collapse._multitask import (
    MultiTaskCollapse,
    multi_task_collapse,
    per_task_statistics,
)
from etf_heads.collapse._plot import (
    plot_class_plane,
    plot_cosines,
    plot_gram,
    plot_layers,
    plot_values,
)
from etf_heads.collapse._regression import RegressionCollapse, regression_collapse
from etf_heads.collapse._separation import separation_fuzziness, separation_law
from etf_heads.collapse._single import (
    SingleTaskCollapse,
    class_distance_normalised_variance,
    single_task_collapse,
)
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._variance import VarianceCollapse, class_variance, cluster_variance

__all__ = [
    "BufferDistortion",
    "ClassStatistics",
    "CollapseMetric",
    "LayerwiseCollapse",
    "ManyClassCollapse",
    "MultiLabelCollapse",
    "MultiSourceCollapse",
    "MultiSourceDisagreement",
    "MultiTaskCollapse",
    "NearestCentreDisagreement",
    "RegressionCollapse",
    "SingleTaskCollapse",
    "VarianceCollapse",
    "class_distance_normalised_variance",
    "class_variance",
    "cluster_variance",
    "error_exponent",
    "forgetting",
    "geometric_complexity",
    "many_class_collapse",
    "multi_label_collapse",
    "multi_source_collapse",
    "multi_task_collapse",
    "one_versus_rest_margin",
    "per_task_statistics",
    "plot_class_plane",
    "plot_cosines",
    "plot_gram",
    "plot_layers",
    "plot_values",
    "pooled",
    "regression_collapse",
    "separation_fuzziness",
    "separation_law",
    "single_task_collapse",
]
