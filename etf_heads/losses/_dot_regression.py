"""Squared error of the cosine of each feature with the class vector of its label."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._labels import checked_by_device
from etf_heads.losses._classifiers import Classifier
from etf_heads.losses._sphere import unit_class_vectors, unit_features, without_autocast
from etf_heads.losses._task_loss import TaskLoss


class DotRegression(TaskLoss):
    r"""Half the squared distance of each feature's cosine with its class vector from 1.

    .. math:: L = \sum_t c_t \, \frac1{N_t} \sum_{i \text{ labelled for } t}
              \tfrac12 (u_i^\top w^t_{y_i} - 1)^2, \qquad |u_i| = |w^t_k| = 1

    Yang, Chen, Li, Xie, Lin and Tao, "Inducing neural collapse in imbalanced learning: do we
    really need a learnable classifier at the end of deep neural network?" (NeurIPS 2022), for
    fixed heads and long-tailed data: rare classes are not pushed away by frequent ones, since
    there is no term of other classes. So with a learned head it is least where all class vectors
    are one. Only the class vectors of the batch's labels are needed. A head's ``scale`` and
    ``bias`` play no part; its ``feature_norm`` is applied first.

    Args:
        task_weights: as in :class:`CompoundCrossEntropy`.
        ignore_index: as in :class:`CompoundCrossEntropy`.
        reduction: as in :class:`CompoundCrossEntropy`.

    Shape:
        as :class:`CompoundCrossEntropy`.

    Raises:
        ValueError: as :class:`CompoundCrossEntropy`.

    Note:
        With T orthogonal tasks the cosines of one feature are at most :math:`1/\sqrt T`, so that
        the loss does not reach 0.

    Example:
        >>> from etf_heads import ETFHead
        >>> head = ETFHead(64, 10)
        >>> features = torch.stack([head.weight[3], -head.weight[4]])
        >>> round(float(DotRegression()(features, head, torch.tensor([3, 4]))), 4)
        1.0
    """

    def each(self, features: Tensor, head: Classifier, labels: Tensor) -> Tensor:
        """Losses of labels (N, T), zero where there are none: (N, T)."""
        with without_autocast(features):
            vectors = unit_features(head, features).flatten(0, -2)
            labelled = labels != self.ignore_index
            columns = zip(labels.where(labelled, 0).unbind(1), head.tasks.sizes, strict=True)
            classes = [checked_by_device(own, size) for own, size in columns]
            cosines = [
                (unit_class_vectors(head, task, own, vectors) * vectors).sum(-1)
                for task, own in enumerate(classes)
            ]
            return ((torch.stack(cosines, dim=1) - 1).square() / 2).where(labelled, 0)
