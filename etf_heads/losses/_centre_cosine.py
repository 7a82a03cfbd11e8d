"""Squared error of the cosines of each feature with the centres of its label."""

from __future__ import annotations

from torch import Tensor

from etf_heads._labels import checked_by_device
from etf_heads.codes import AssignedCode, MultiCentreCode
from etf_heads.heads import FixedHead
from etf_heads.losses._classifiers import Classifier
from etf_heads.losses._dot_regression import DotRegression
from etf_heads.losses._sphere import unit_features, without_autocast


class CentreCosine(DotRegression):
    r"""Mean over the centres of a feature's class of half the squared distance of cosines from 1.

    .. math:: L = \frac1N \sum_i \frac1{f_{y_i}} \sum_{j=1}^{f_{y_i}}
              \tfrac12 (u_i^\top w_{y_i j} - 1)^2
              = \frac1N \sum_i \Bigl[ \tfrac12 (1 - m_{y_i}^\top u_i)^2
              + \tfrac12 \cos^2\theta\, \mathrm{Var}_j(v_{y_i j}^\top u_i) \Bigr],
              \qquad |u_i| = 1

    For heads of a :class:`~etf_heads.codes.MultiCentreCode`, whose centres :math:`w_{kj}` and means
    :math:`m_k` these are. "Neural collapse to multiple centers for imbalanced data" (NeurIPS 2024)
    draws features to the centres of their class by cosines; this loss is our reading. It is least
    at :math:`m_k / |m_k|`, where its curvature across all centres is :math:`|m_k| (1 - |m_k|)`: 0
    for one centre, about 1/4 for 4 to 8. So the number of centres weighs the classes.

    With all other heads class vectors are the only centres, and it is :class:`DotRegression`. A
    head's ``scale`` and ``bias`` play no part; its ``feature_norm`` is applied first.

    Args:
        task_weights: as in :class:`CompoundCrossEntropy`.
        ignore_index: as in :class:`CompoundCrossEntropy`.
        reduction: as in :class:`CompoundCrossEntropy`.

    Shape:
        as :class:`CompoundCrossEntropy`.

    Raises:
        ValueError: as :class:`CompoundCrossEntropy`.

    Example:
        >>> import torch
        >>> from etf_heads.codes import MultiCentreCode
        >>> from etf_heads.heads import FixedHead
        >>> head = FixedHead(16, MultiCentreCode([1, 4], theta=0.2))
        >>> features = head.weight.clone()  # in the directions of the classes' means
        >>> losses = CentreCosine(reduction="none")(features, head, torch.tensor([0, 1]))
        >>> losses.abs().round(decimals=4).flatten()  # half of (1 - |m_k|)²
        tensor([0.0000, 0.1110])
    """

    def each(self, features: Tensor, head: Classifier, labels: Tensor) -> Tensor:
        """Losses of labels (N, T), zero where there are none: (N, T)."""
        code: object = getattr(head, "code", None)
        rows: Tensor | None = None
        if isinstance(code, AssignedCode):
            rows = code.assignment
            code = code.base
        if not isinstance(code, MultiCentreCode) or not isinstance(head, FixedHead):
            return super().each(features, head, labels)
        with without_autocast(features):
            vectors = unit_features(head, features).flatten(0, -2)
            labelled = labels != self.ignore_index
            classes = checked_by_device(labels.where(labelled, 0)[:, 0], head.tasks.total)
            classes = classes if rows is None else rows[classes]
            cosines = code.centre_products(head.orientation.project(vectors))
            losses = code.centre_means((cosines - 1).square() / 2)
            return losses.gather(1, classes[:, None]).where(labelled, 0)
