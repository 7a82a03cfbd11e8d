"""Optimum under a fixed head, when only features decay, and the scale that compensates for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etf_heads._tasks import class_count, positive_int
from etf_heads.theory._checks import positive, weights_of
from etf_heads.theory._closed_form import logit_gap
from etf_heads.theory._counts import JointCounts
from etf_heads.theory._losses import CrossEntropy, GapLoss, LossSpec, losses_of
from etf_heads.theory._roots import falling_root

_MAX_STEPS = 100
_MAX_HALVINGS = 40


def fixed_head_gap(
    num_classes: int,
    scale: float,
    lambda_h: float,
    n: float,
    task_weight: float = 1.0,
    *,
    loss: GapLoss | None = None,
) -> float:
    r"""Logit gap that features reach behind a fixed simplex ETF.

    The unconstrained feature model with its class vectors held at a simplex ETF of rows of length
    s has only the features' regulariser left. A feature with the logit gap a has the squared
    norm :math:`a^2 (K-1)^2 / (K s)^2` at least, so each task ends at the minimiser of

    .. math:: c\, \varphi(a) + \lambda_H N \left(\frac{K-1}{K}\right)^2 \frac{a^2}{s^2}, \qquad
              -\varphi'(a) = \frac{2 \lambda_H N}{c} \left(\frac{K-1}{K}\right)^2 \frac{a}{s^2}

    with φ the least loss of a gap: under cross-entropy :math:`-\varphi'(a) = (K-1)/(e^a + K-1)`.
    Unlike a learned head's (:func:`logit_gap`) the gap is never zero. It holds for every label
    distribution, and for each task of a compound head, whose tasks are orthogonal. Our derivation.

    Args:
        num_classes: K of the task.
        scale: s, the length of the class vectors.
        lambda_h: regulariser of the features, mean-loss convention.
        n: number of samples N.
        task_weight: c of the task.
        loss: of the task, convex (:class:`CrossEntropy` or :class:`SquaredError`); cross-entropy
            when None.

    Returns:
        The gap a. The feature is :math:`a (K-1) / (K s^2)` times the class vector.

    Raises:
        ValueError: if K < 2, a number is not positive, or the loss is not convex.

    Example:
        A learned head has the gap 5.8422 at these λ's; :func:`matched_scale` gives it back:

        >>> scale = matched_scale(10, lambda_w=5e-3, lambda_h=1e-5, n=400)
        >>> round(scale, 4), round(fixed_head_gap(10, scale, lambda_h=1e-5, n=400), 4)
        (1.2195, 5.8422)
    """
    class_count(num_classes, "num_classes")
    positive(scale=scale, lambda_h=lambda_h, n=n, task_weight=task_weight)
    loss = _convex(loss or CrossEntropy())
    stiffness = 2 * lambda_h * n / task_weight * ((num_classes - 1) / (num_classes * scale)) ** 2
    return falling_root(lambda a: loss.slope(num_classes, a) - stiffness * a, 0.0)


def matched_scale(
    num_classes: int,
    lambda_w: float,
    lambda_h: float,
    n: float,
    task_weight: float = 1.0,
    *,
    loss: GapLoss | None = None,
) -> float:
    r"""Length of class vectors with which a fixed head ends where the learned one would.

    A learned head under decay (λ_W, λ_H) ends at class vectors of the squared length

    .. math:: s^2 = \sqrt{\frac{\lambda_H}{\lambda_W}} \sqrt{\frac{N}{K c}}\, a
              \left(1 - \frac1K\right)

    with a its :func:`logit_gap`. A fixed simplex ETF of that scale under λ_H alone has the same
    features, logits and loss. The scale of an orthogonal task of a compound head is that of the
    task alone. Behind batch normalisation the length of the features is not free and
    :func:`batch_norm_scale` applies instead.

    Args:
        num_classes: K of the task.
        lambda_w: regulariser that the learned class vectors would have, mean-loss convention.
        lambda_h: regulariser of the features.
        n: number of samples N.
        task_weight: c of the task.
        loss: of the task, convex; cross-entropy when None.

    Returns:
        s > 0, in the units of ``scale`` of the heads.

    Raises:
        ValueError: if a number is not positive, the loss is not convex, or the learned head would
            be zero, so that no scale matches.

    Example:
        >>> round(matched_scale(10, lambda_w=5e-3, lambda_h=1e-5, n=400), 4)
        1.2195
    """
    loss = _convex(loss or CrossEntropy())
    gap = logit_gap(num_classes, lambda_w, lambda_h, n, task_weight, loss=loss)
    if gap == 0:
        raise ValueError(
            f"lambda_w * lambda_h * n = {lambda_w * lambda_h * n:g} is beyond zero_head_threshold("
            f"{num_classes}): the learned head would be zero, and no scale matches it; give "
            "smaller λ's"
        )
    square = gap * (1 - 1 / num_classes) * math.sqrt(n / (num_classes * task_weight))
    return math.sqrt(square * math.sqrt(lambda_h / lambda_w))


def batch_norm_scale(num_classes: int, gap: float, num_features: int, num_tasks: int = 1) -> float:
    r"""Scale at which collapsed features behind batch normalisation have a wanted logit gap.

    Behind a parameter-free batch normalisation every feature has variance 1. Features that have
    collapsed onto balanced classes behind tiled simplex ETFs (d a multiple of :math:`\sum K_t`)
    then have the logit gap :math:`s \sqrt{d/T}\, K/(K-1)` whatever the loss wants. A loss with a
    smaller finite gap, such as label smoothing, leaves the surplus outside the frame; at

    .. math:: s^* = a\, \frac{K-1}{K} \sqrt{\frac Td}

    it does not (our derivation; two-digit images, one pilot: deviation of features from the sum of
    class vectors .67 -> .054, same accuracy).

    Args:
        num_classes: K of every task.
        gap: the wanted gap a, such as ``CrossEntropy(label_smoothing=0.1).gap(K, price=0)``.
        num_features: d.
        num_tasks: T.

    Returns:
        s* > 0.

    Raises:
        ValueError: if a number is not positive or not finite.

    Example:
        >>> gap = CrossEntropy(label_smoothing=0.1).gap(10, price=0)
        >>> round(batch_norm_scale(10, gap, num_features=60, num_tasks=2), 4)
        0.7412
    """
    class_count(num_classes, "num_classes")
    positive(gap=gap)
    features, tasks = positive_int(num_features, "num_features"), positive_int(num_tasks, "tasks")
    return gap * (1 - 1 / num_classes) * math.sqrt(tasks / features)


@dataclass(frozen=True, eq=False)
class FixedHeadOptimum:
    """The minimum of the unconstrained feature model over the features alone.

    Attributes:
        counts: the label tuples of the problem.
        logits: of every label tuple, shape (G, sum K_t), in the order of ``counts.labels``.
        coefficients: shape (G, sum K_t); features are ``coefficients @ weight``.
        objective: loss and features' regulariser.
    """

    counts: JointCounts
    logits: Tensor
    coefficients: Tensor
    objective: float

    @property
    def logit_gaps(self) -> Tensor:
        """The right logit less the mean of the task's others, shape (G, T)."""
        right = self.logits.gather(1, self.counts.rows)
        sums = torch.stack([self.logits[:, rows].sum(1) for rows in self.counts.tasks.slices], 1)
        others = torch.tensor(self.counts.tasks.sizes, device=right.device) - 1
        return right - (sums - right) / others


@torch.no_grad()
def fixed_head_optimum(
    gram: Tensor,
    label_counts: Tensor | JointCounts,
    lambda_h: float,
    *,
    task_weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
    losses: LossSpec = None,
) -> FixedHeadOptimum:
    r"""The optimum under any fixed head: features of every label tuple, logits and objective.

    With the class vectors W fixed, the unconstrained feature model is one small strictly convex
    problem a tuple,

    .. math:: \min_h \sum_t c_t L_t(W^t h, y^t) + \lambda_H N \|h\|^2, \qquad
              h = -\frac{1}{2 \lambda_H N} W^\top \nabla_z L

    which depends on the Gram matrix :math:`W W^\top` alone; Newton's method solves it to round-off.
    For compound heads each task's gap is :func:`fixed_head_gap`. For two binary tasks with the
    cosine ρ between them, tuples of equal labels have the gap a with
    :math:`2/(e^a + 1) = \lambda_H N a / (s^2 (1 + \rho))`, tuples of different labels that with -ρ.

    Args:
        gram: W Wᵀ of shape (sum K_t, sum K_t), positive semidefinite.
        label_counts: samples by label tuple, shape (K_1, ..., K_T), or :class:`JointCounts`.
        lambda_h: regulariser of the features, mean-loss convention.
        task_weights: c_t by task name, or in order; 1 each when None.
        losses: convex ones, one for all tasks, or by task name, or in order; cross-entropy when
            None.

    Returns:
        The :class:`FixedHeadOptimum`.

    Raises:
        ValueError: if the Gram matrix does not match the tasks or is not positive semidefinite,
            λ_H is not positive, a loss is not convex, or counts are not possible.

    Example:
        >>> from etf_heads.geometry import simplex_etf
        >>> weight = 2 * simplex_etf(4)
        >>> best = fixed_head_optimum(weight @ weight.T, torch.ones(4), lambda_h=1e-2)
        >>> gap = fixed_head_gap(4, scale=2.0, lambda_h=1e-2, n=4)
        >>> bool((best.logit_gaps - gap).abs().max() < 1e-9)
        True
    """
    positive(lambda_h=lambda_h)
    counts = JointCounts.parse(label_counts)
    tasks = counts.tasks
    if tuple(gram.shape) != (tasks.total, tasks.total):
        raise ValueError(
            f"gram has shape {tuple(gram.shape)}; expected ({tasks.total}, {tasks.total}) for "
            f"tasks of {list(tasks.sizes)} classes"
        )
    gram = gram.to(counts.counts.device, torch.float64)
    spectrum, axes = torch.linalg.eigh((gram + gram.T) / 2)
    if not spectrum[0] >= -1e-7 * spectrum[-1].abs():
        raise ValueError(
            f"gram has the negative eigenvalue {spectrum[0].item():g}: no class vectors have it"
        )
    weight = axes * spectrum.clamp(min=0).sqrt()  # one of the class vectors with this Gram matrix
    weights = weights_of(tasks, task_weights)
    each = tuple(_convex(loss) for loss in losses_of(tasks, losses))
    decay = lambda_h * counts.total

    def tuple_loss(logits: Tensor, labels: Tensor) -> Tensor:
        parts = [
            c * loss(logits[rows], labels[t])
            for t, (c, loss, rows) in enumerate(
                zip(weights.tolist(), each, tasks.slices, strict=True)
            )
        ]
        return torch.stack(parts).sum()

    def values_of(features: Tensor) -> Tensor:
        losses = torch.func.vmap(tuple_loss)(features @ weight.T, counts.labels)
        return losses + decay * features.square().sum(1)

    slope_of = torch.func.vmap(torch.func.grad(tuple_loss))
    curvature_of = torch.func.vmap(torch.func.hessian(tuple_loss))
    features = weight.new_zeros(len(counts.labels), tasks.total)
    identity = torch.eye(tasks.total, dtype=torch.float64, device=weight.device)
    values = values_of(features)
    for _ in range(_MAX_STEPS):
        logits = features @ weight.T
        slopes = slope_of(logits, counts.labels) @ weight + 2 * decay * features
        hessians = weight.T @ curvature_of(logits, counts.labels) @ weight + 2 * decay * identity
        steps = -torch.linalg.solve(hessians, slopes)
        promised = -(slopes * steps).sum(1)
        if not (promised > 1e-28 * values.abs().clamp(min=1e-300)).any():
            break
        length = torch.ones_like(values)
        for _ in range(_MAX_HALVINGS):
            moved = features + length[:, None] * steps
            worse = values_of(moved) > values - 1e-4 * length * promised + 1e-15 * values.abs()
            if not worse.any():
                break
            length = torch.where(worse, length / 2, length)
        features = moved
        values = values_of(features)
    logits = features @ weight.T
    return FixedHeadOptimum(
        counts=counts,
        logits=logits,
        coefficients=-slope_of(logits, counts.labels) / (2 * decay),
        objective=float(counts.counts @ values) / counts.total,
    )


def _convex(loss: GapLoss) -> GapLoss:
    if not loss.convex:
        raise ValueError(
            f"loss={loss!r} is not convex: its optimum may not be unique; use CrossEntropy "
            "or SquaredError"
        )
    return loss
