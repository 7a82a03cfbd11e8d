"""A penalty on the squared length of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etf_heads._precision import at_least_float32
from etf_heads._tasks import TaskWeights
from etf_heads.heads import Head
from etf_heads.losses._classifiers import AnyHead, Classifier, classifier_of
from etf_heads.losses._sphere import has_unit_simplexes
from etf_heads.losses._task_loss import check_task_weights


class FeaturePenalty(nn.Module):
    r"""The mean of :math:`\lambda |h|^2` over the features, to be added to a loss.

    The term :math:`\lambda_H |H|^2` of the unconstrained feature model, for networks whose learned
    head was removed and its weight decay with it. Where weight decay adds
    :math:`\frac{\eta}{2} |W|^2` to the loss (SGD; :math:`\eta` is the optimiser's
    ``weight_decay``) and a linear layer :math:`h = W a` makes the features,

    .. math:: \mathbb E |h|^2 = |W|^2 \quad\text{for inputs with } \mathbb E\, a a^\top = I,

    so that :math:`\lambda = (m - 1)\, \eta / 2` acts as m times that layer's decay, m = 2 standing
    for its own and the removed head's: the default. Inputs of another second moment
    :math:`\Sigma` give :math:`\mathrm{tr}(W \Sigma W^\top)` instead, which weighs directions by
    how much they are used.

    Prefer :func:`~etf_heads.surgery.decay_groups`, which needs no such assumption and is what
    was measured; with AdamW, whose decay does not pass through the adaptive step, the two are
    not equivalent. This is for layers that cannot have a group of their own, and for several
    tasks of different strength. Behind a normalisation :math:`|h|` is fixed and a penalty does
    nothing: take the head's scale there.

    Args:
        strength: :math:`\lambda`; from ``weight_decay`` when None.
        weight_decay: :math:`\eta`, as the optimiser takes it.
        multiplier: m, at least 1.
        task_weights: :math:`c_t`, by task name or in order, for
            :math:`\lambda \sum_t c_t |P_t h|^2` with the projection :math:`P_t` onto the span of
            task t's class vectors. What no task uses is free then.

    Shape:
        features (..., d), as the head gets them; a number comes out.

    Raises:
        ValueError: if neither or both of strength and weight_decay are given, a number is out of
            range, task weights come without a head, or the head normalises its features.

    Example:
        >>> import torch
        >>> from etf_heads import ETFHead
        >>> from etf_heads.losses import CompoundCrossEntropy
        >>> head, criterion = ETFHead(64, 10), CompoundCrossEntropy()
        >>> penalty = FeaturePenalty(weight_decay=5e-4)
        >>> features, labels = torch.randn(8, 64), torch.arange(8)
        >>> loss = criterion(features, head, labels) + penalty(features, head)
        >>> penalty
        FeaturePenalty(strength=0.00025, task_weights=None)
    """

    def __init__(
        self,
        strength: float | None = None,
        *,
        weight_decay: float | None = None,
        multiplier: float = 2.0,
        task_weights: TaskWeights | None = None,
    ) -> None:
        super().__init__()
        if (strength is None) == (weight_decay is None):
            raise ValueError("give either strength, or weight_decay to derive it from")
        if not (math.isfinite(multiplier) and multiplier >= 1):
            raise ValueError(f"multiplier must be finite and at least 1, got {multiplier!r}")
        for name, value in {"strength": strength, "weight_decay": weight_decay}.items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
        check_task_weights(task_weights)
        self.strength = (multiplier - 1) * (weight_decay or 0) / 2 if strength is None else strength
        self.task_weights = task_weights

    def forward(self, features: Tensor, head: AnyHead | None = None) -> Tensor:
        """The penalty of features (..., d) that a head gets."""
        classifier = None if head is None else classifier_of(head)
        if classifier is not None and classifier.norm is not None:
            raise ValueError(
                f"the head normalises its features ({type(classifier.norm).__name__}): a penalty "
                "on their length has no effect; set the scale of the head instead"
            )
        features = features.to(at_least_float32(features.dtype))  # squares overflow in float16
        if self.task_weights is None:
            squares = features.square().sum(-1)
        elif classifier is None:
            raise ValueError("task_weights need the head: its class vectors span the tasks' parts")
        else:
            weights = classifier.tasks.unpack(self.task_weights, "task_weights")
            parts = _squares_by_task(features, classifier)
            squares = parts @ parts.new_tensor(weights)
        return self.strength * squares.mean()

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return f"strength={self.strength:g}, task_weights={self.task_weights}"


def _squares_by_task(features: Tensor, head: Classifier) -> Tensor:
    """Squared lengths of the projections onto each task's class vectors: (..., T)."""
    sizes = head.tasks.sizes
    if isinstance(head, Head) and has_unit_simplexes(head):  # FᵀF = K/(K-1) P
        parts = head.scores(features).split(sizes, dim=-1)
        squares = [z.square().sum(-1) * (1 - 1 / k) for z, k in zip(parts, sizes, strict=True)]
    else:
        frame = head.frame() if isinstance(head, Head) else head.weight
        frame = frame.detach().to(features.dtype)
        squares = [(features @ _span(frame[r])).square().sum(-1) for r in head.tasks.slices]
    return torch.stack(squares, dim=-1)


def _span(vectors: Tensor) -> Tensor:
    """An orthonormal basis of what the rows of a matrix (K, d) span: (d, rank)."""
    _, values, basis = torch.linalg.svd(vectors, full_matrices=False)
    return basis[: int((values > 1e-5 * values[:1]).sum())].mT
