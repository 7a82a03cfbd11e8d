"""Cross-entropy of cosines."""

from __future__ import annotations

from torch import Tensor

from etf_heads._labels import NO_LABEL
from etf_heads._tasks import TaskWeights
from etf_heads.heads import FixedHead
from etf_heads.losses._classifiers import Classifier
from etf_heads.losses._cross_entropy import CrossEntropy
from etf_heads.losses._sphere import check_temperature, cosines, unit_features, without_autocast
from etf_heads.losses._task_loss import Reduction


class NormalizedCrossEntropy(CrossEntropy):
    r"""Softmax cross-entropy of the cosines of features and class vectors, over a temperature.

    .. math:: L = \sum_t c_t \, \frac1{N_t} \sum_{i \text{ labelled for } t} -\log
              \frac{\exp(u_i^\top w^t_{y_i} / \tau)}{\sum_k \exp(u_i^\top w^t_k / \tau)},
              \qquad |u_i| = |w^t_k| = 1

    Wang, Xiang, Cheng and Yuille, "NormFace: L2 hypersphere embedding for face verification"
    (ACM Multimedia 2017). Features and class vectors are brought to unit length inside: a head's
    ``scale`` and ``bias`` play no part. Its ``feature_norm`` is applied first.

    Args:
        temperature: :math:`\tau`. A task of K classes can reach the probability p with
            :math:`1/\tau \ge (K-1)/K \cdot \log((K-1)p/(1-p))`: for p = 0.99 that is 6.1, 7.2 and
            9.1 for K = 10, 20 and 100. With T orthogonal tasks the cosines of one feature are
            at most :math:`1/\sqrt T`: :math:`\tau/\sqrt T` gives the same logits.
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1].
        task_weights: as in :class:`CompoundCrossEntropy`.
        ignore_index: as in :class:`CompoundCrossEntropy`.
        reduction: as in :class:`CompoundCrossEntropy`.

    Shape:
        as :class:`CompoundCrossEntropy`.

    Raises:
        ValueError: as :class:`CompoundCrossEntropy`, or if the temperature is not positive.

    Note:
        Cosines are computed in float32 at least, under autocast as well. The cosine of a zero
        vector is 0. Heads of many classes (:class:`~etf_heads.SphericalCodeHead`) make no logits,
        as in :class:`CompoundCrossEntropy`.

    Example:
        >>> import torch
        >>> from etf_heads import ETFHead
        >>> head = ETFHead(64, 10)
        >>> features, labels = 3 * head.weight[:4], torch.arange(4)
        >>> loss = NormalizedCrossEntropy(temperature=0.1)(features, head, labels)
        >>> round(float(loss), 6)  # log(1 + 9 exp(-10/9 / 0.1))
        0.000134
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        label_smoothing: float = 0.0,
        task_weights: TaskWeights | None = None,
        ignore_index: int = NO_LABEL,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            label_smoothing=label_smoothing,
            task_weights=task_weights,
            ignore_index=ignore_index,
            reduction=reduction,
        )
        self.temperature = check_temperature(temperature)

    def logits(self, features: Tensor, head: Classifier) -> Tensor:
        """Cosines over the temperature, of all tasks: (..., sum K_t)."""
        with without_autocast(features):
            return cosines(head, unit_features(head, features)) / self.temperature

    def coordinates(self, features: Tensor, head: FixedHead) -> Tensor:
        """What a code of unit vectors makes these logits of: (..., d) -> (..., columns)."""
        with without_autocast(features):
            vectors = unit_features(head, features)
            return head.orientation.project(vectors, 1 / self.temperature)

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return f"temperature={self.temperature:g}, {super().extra_repr()}"
