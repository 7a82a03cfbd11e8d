"""Optimum of balanced tasks: logit gaps, thresholds, class vectors and features (Theorem 3.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etf_heads._tasks import Tasks, TaskSpec, class_count
from etf_heads.geometry import compound_etf
from etf_heads.theory._checks import positive, weights_of
from etf_heads.theory._losses import CrossEntropy, GapLoss, LossSpec, losses_of


def logit_gap(
    num_classes: int,
    lambda_w: float,
    lambda_h: float,
    n: float,
    task_weight: float = 1.0,
    *,
    loss: GapLoss | None = None,
) -> float:
    r"""Logit of the right class minus that of any other, at the optimum of a balanced task.

    "Neural Collapse in Multi-Task Learning", Theorem 3.1: with
    :math:`q = 2 \sqrt{\lambda_W \lambda_H N / (K c)}`, the probability left for each wrong class,
    the gap is

    .. math:: a = \log(1/q - (K - 1))  \quad\text{for } q < 1/K, \text{ else } 0.

    Under another loss, whose least value at the gap a is :math:`\varphi(a)`, it is the minimiser
    of :math:`\varphi(a) + (K-1)\, q\, a` (:class:`CrossEntropy`, :class:`Focal`,
    :class:`SquaredError`; our derivation, see there).

    Args:
        num_classes: K of the task.
        lambda_w: regulariser of the class vectors, mean-loss convention
            (:func:`mean_loss_lambdas` converts).
        lambda_h: regulariser of the features.
        n: number of samples N.
        task_weight: c of the task.
        loss: of the task; cross-entropy when None.

    Returns:
        The gap; 0 at and beyond :func:`zero_head_threshold`, where the best head is zero.

    Raises:
        ValueError: if K < 2 or another argument is not positive.

    Example:
        >>> round(logit_gap(10, lambda_w=5e-3, lambda_h=1e-5, n=400), 4)
        5.8422
        >>> smoothed = CrossEntropy(label_smoothing=0.1)
        >>> round(logit_gap(10, lambda_w=5e-3, lambda_h=1e-5, n=400, loss=smoothed), 4)
        4.2334
    """
    class_count(num_classes, "num_classes")
    positive(lambda_w=lambda_w, lambda_h=lambda_h, n=n, task_weight=task_weight)
    price = 2 * math.sqrt(lambda_w * lambda_h * n / (num_classes * task_weight))
    return (loss or CrossEntropy()).gap(num_classes, price)


def zero_head_threshold(
    num_classes: int, task_weight: float = 1.0, *, loss: GapLoss | None = None
) -> float:
    r"""The regularisation :math:`\lambda_W \lambda_H N` from which a balanced task's head is zero.

    It is :math:`c / (4K)` in the mean-loss convention. In the sum-loss convention the same
    condition reads :math:`\lambda_W \lambda_H = N c / (4K)`. For another loss it is
    :math:`c K q^2 / 4`, q the price from which its best gap is zero; under focal loss the gap
    can jump there.

    Args:
        num_classes: K of the task.
        task_weight: c of the task.
        loss: of the task; cross-entropy when None.

    Example:
        >>> zero_head_threshold(10)
        0.025
        >>> logit_gap(10, lambda_w=0.025, lambda_h=0.01, n=100)
        0.0
    """
    positive(task_weight=task_weight)
    price = (loss or CrossEntropy()).zero_price(class_count(num_classes, "num_classes"))
    return task_weight * (num_classes * price) ** 2 / (4 * num_classes)


@dataclass(frozen=True, eq=False)
class BalancedOptimum:
    """The global minimum of the unconstrained feature model when all label tuples are alike.

    Attributes:
        tasks: class counts of the tasks.
        class_vectors: shape (sum K_t, dim).
        logit_gaps: a_t of each task, shape (T,).
        feature_scales: what multiplies a task's class vector in the feature, shape (T,).
        objective: the least value of the objective.
    """

    tasks: Tasks
    class_vectors: Tensor
    logit_gaps: Tensor
    feature_scales: Tensor
    objective: float

    @property
    def gram(self) -> Tensor:
        """Gram matrix of the class vectors, shape (sum K_t, sum K_t)."""
        return self.class_vectors @ self.class_vectors.T

    def features(self, labels: Tensor) -> Tensor:
        """Optimal features of samples with these labels: (..., T) integers -> (..., dim)."""
        if labels.shape[-1:] != (len(self.tasks),):
            raise ValueError(
                f"labels has shape {tuple(labels.shape)}; expected (..., {len(self.tasks)}): the "
                "last dimension runs over the tasks"
            )
        feature = torch.zeros(*labels.shape[:-1], self.class_vectors.shape[1]).double()
        for t, rows in enumerate(self.tasks.slices):
            feature += self.feature_scales[t] * self.class_vectors[rows][labels[..., t]]
        return feature


def balanced_optimum(
    tasks: TaskSpec | Tasks,
    lambda_w: float,
    lambda_h: float,
    n: float,
    *,
    dim: int | None = None,
    task_weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
    losses: LossSpec = None,
) -> BalancedOptimum:
    r"""Optimal class vectors and features of balanced tasks whose labels are independent.

    "Neural Collapse in Multi-Task Learning", Theorem 3.1, for any number of tasks, classes and
    task weights. Every label tuple has the same number of samples; with :math:`a_t` the
    :func:`logit_gap`, tasks are orthogonal and each is a simplex ETF:

    .. math:: W^t {W^t}^\top = \sqrt{\frac{\lambda_H N}{\lambda_W K_t c_t}}\, a_t
              (I - \mathbf 1 \mathbf 1^\top / K_t), \qquad
              h_g = \sum_t \sqrt{\frac{\lambda_W c_t K_t}{\lambda_H N}}\, w^t_{k_t}

    Args:
        tasks: class counts by task name, or in order.
        lambda_w: regulariser of the class vectors, mean-loss convention.
        lambda_h: regulariser of the features.
        n: number of samples N.
        dim: dimensions to stand in, at least sum K_t - T; see :func:`etf_heads.geometry
            .compound_etf`.
        task_weights: c_t by task name, or in order; 1 each when None.
        losses: one for all tasks, or by task name, or in order; cross-entropy when None.

    Raises:
        ValueError: if a number is not positive, dim is too small, or the task weights do not
            match the tasks.

    Example:
        >>> best = balanced_optimum([3, 2], lambda_w=1e-2, lambda_h=1e-3, n=60)
        >>> logits = best.features(torch.tensor([2, 0])) @ best.class_vectors.T
        >>> torch.allclose(logits[2] - logits[:2], best.logit_gaps[0])
        True
    """
    tasks = Tasks.parse(tasks)
    weights = weights_of(tasks, task_weights)
    each = list(zip(tasks.sizes, weights.tolist(), losses_of(tasks, losses), strict=True))
    found = [logit_gap(k, lambda_w, lambda_h, n, c, loss=loss) for k, c, loss in each]
    gaps = torch.tensor(found, dtype=torch.float64)
    sizes = torch.tensor(tasks.sizes, dtype=torch.float64)
    # Norm² of every class vector of a task: the diagonal of its Gram matrix.
    squared_norms = (lambda_h * n / (lambda_w * sizes * weights)).sqrt() * gaps * (1 - 1 / sizes)
    class_vectors = (
        compound_etf(tasks, dim) * squared_norms.repeat_interleave(sizes.long()).sqrt()[:, None]
    )
    # Features cost as much as class vectors: λ_H sum n_g |h_g|² = λ_W sum c_t |W^t|².
    least = [loss.value(k, a) for (k, _, loss), a in zip(each, found, strict=True)]
    values = torch.tensor(least, dtype=torch.float64) + 2 * lambda_w * sizes * squared_norms
    return BalancedOptimum(
        tasks=tasks,
        class_vectors=class_vectors,
        logit_gaps=gaps,
        feature_scales=(lambda_w * weights * sizes / (lambda_h * n)).sqrt(),
        objective=float(weights @ values),
    )
