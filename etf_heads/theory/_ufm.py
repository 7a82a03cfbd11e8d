"""The unconstrained feature model as an objective that any optimiser can minimise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads._tasks import positive_int
from etf_heads.theory._checks import positive, weights_of
from etf_heads.theory._counts import JointCounts
from etf_heads.theory._losses import LossSpec, losses_of


def mean_loss_lambdas(lambda_w: float, lambda_h: float, n: float) -> tuple[float, float]:
    r"""Regularisers of the mean-loss convention from those of the sum-loss convention.

    Papers that add the loss up over samples, :math:`\sum_i \mathrm{CE}_i + \lambda_H \|H\|^2 +
    \lambda_W \|W\|^2`, have N times the λ's of the mean-loss convention that everything here
    uses; both then have the same minimisers.

    Args:
        lambda_w: λ_W beside the summed loss.
        lambda_h: λ_H beside the summed loss.
        n: number of samples N.

    Returns:
        λ_W and λ_H beside the mean loss.

    Raises:
        ValueError: if an argument is not positive.

    Example:
        >>> mean_loss_lambdas(2.0, 0.5, n=100)
        (0.02, 0.005)
    """
    positive(lambda_w=lambda_w, lambda_h=lambda_h, n=n)
    return lambda_w / n, lambda_h / n


class UnconstrainedFeatureModel(nn.Module):
    r"""Class vectors and features as free variables under a regularised loss.

    "Neural Collapse in Multi-Task Learning", in the single-source setting: every sample has a
    label for every task. Samples of one label tuple g share their optimal feature, so the model
    has one feature :math:`h_g` a tuple, counted :math:`n_g` times:

    .. math:: \sum_g \frac{n_g}{N} \sum_t c_t\, L_t(W^t h_g, y_g^t)
              + \lambda_H \sum_g n_g \|h_g\|^2 + \lambda_W \sum_t c_t \|W^t\|^2

    Any optimiser of :mod:`torch.optim` applies; :func:`optimal_gram` knows the minimum. The
    multi-source setting, where every task has samples of its own, is one such model a task.

    ``normalised=s`` is the model of Yaras et al. ("Neural collapse with normalized features",
    NeurIPS 2022): class vectors and features of length 1, with s times their cosines as logits.
    Its regularisers would be constants and are left out, so that the λ's play no part. One task
    of K <= dim + 1 classes has its minimum at a simplex ETF (:func:`sphere_optimum`).

    Args:
        label_counts: tensor of shape (K_1, ..., K_T), or :class:`JointCounts`.
        lambda_w: regulariser of the class vectors, mean-loss convention
            (:func:`mean_loss_lambdas`).
        lambda_h: regulariser of the features.
        dim: dimensions of the features; sum K_t - T when None, which suffices for the global
            minimum of every problem.
        task_weights: c_t by task name, or in order; 1 each when None.
        losses: one for all tasks, or by task name, or in order (:class:`CrossEntropy`,
            :class:`Focal`, :class:`SquaredError`); cross-entropy when None.
        normalised: s, one over the temperature; None for vectors of any length.
        generator: draws the starting point; the global generator when None.
        dtype: of the parameters.

    Attributes:
        weight: class vectors, shape (sum K_t, dim). Where they are normalised their directions
            count, not their lengths, and so with the features.
        features: features by label tuple, shape (G, dim), in the order of ``counts.labels``.
        counts: the :class:`JointCounts` of the data.

    Raises:
        ValueError: if the counts, λ's, dim or the scale are not possible, or the task weights do
            not match.

    Example:
        >>> model = UnconstrainedFeatureModel(torch.ones(3, 2), lambda_w=1e-2, lambda_h=1e-3)
        >>> optimiser = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-10)
        >>> def closure():
        ...     optimiser.zero_grad()
        ...     objective = model()
        ...     objective.backward()
        ...     return objective
        >>> _ = optimiser.step(closure)
        >>> cross_task = model.gram()[:3, 3:]
        >>> bool(cross_task.abs().max() < 1e-3)
        True

        On the unit sphere, where no lengths are regularised:

        >>> model = UnconstrainedFeatureModel(torch.ones(3), 1e-2, 1e-3, normalised=5.0)
        >>> bool((model.gram().diagonal() - 1).abs().max() < 1e-12)
        True
    """

    groups: Tensor
    labels: Tensor
    class_weights: Tensor
    task_weights: Tensor

    def __init__(
        self,
        label_counts: Tensor | JointCounts,
        lambda_w: float,
        lambda_h: float,
        *,
        dim: int | None = None,
        task_weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
        losses: LossSpec = None,
        normalised: float | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        positive(lambda_w=lambda_w, lambda_h=lambda_h)
        if normalised is not None:
            positive(normalised=normalised)
        self.normalised = normalised
        self.counts = JointCounts.parse(label_counts)
        self.lambda_w, self.lambda_h = lambda_w, lambda_h
        tasks = self.counts.tasks
        self.losses = losses_of(tasks, losses)
        dim = tasks.rank if dim is None else positive_int(dim, "dim")
        device = self.counts.counts.device
        weights = weights_of(tasks, task_weights).to(device, dtype)
        sizes = torch.tensor(tasks.sizes, device=device)
        self.register_buffer("groups", self.counts.counts.to(dtype), persistent=False)
        self.register_buffer("labels", self.counts.labels, persistent=False)
        self.register_buffer("task_weights", weights, persistent=False)
        self.register_buffer("class_weights", weights.repeat_interleave(sizes), persistent=False)
        self.weight = nn.Parameter(
            torch.randn(tasks.total, dim, generator=generator, dtype=dtype).to(device)
        )
        self.features = nn.Parameter(
            torch.randn(len(self.groups), dim, generator=generator, dtype=dtype).to(device)
        )

    def logits(self) -> Tensor:
        """Logits of all tasks, shape (G, sum K_t)."""
        products = self._scaled(self.features) @ self._scaled(self.weight).T
        return products if self.normalised is None else self.normalised * products

    def gram(self) -> Tensor:
        """Gram matrix of the class vectors, shape (sum K_t, sum K_t); of length 1 if normalised."""
        vectors = self._scaled(self.weight).detach()
        return vectors @ vectors.T

    def forward(self) -> Tensor:
        """The objective, a scalar."""
        logits = self.logits()
        each = [
            loss(logits[:, rows], self.labels[:, t])
            for t, (loss, rows) in enumerate(
                zip(self.losses, self.counts.tasks.slices, strict=True)
            )
        ]
        losses = torch.stack(each, dim=1) @ self.task_weights  # shape: (G,)
        mean = self.groups @ losses / self.groups.sum()
        if self.normalised is not None:
            return mean
        return (
            mean
            + self.lambda_h * (self.groups @ self.features.square().sum(-1))
            + self.lambda_w * (self.class_weights @ self.weight.square().sum(-1))
        )

    def _scaled(self, rows: Tensor) -> Tensor:
        """Rows as the logits see them: as they are, or of length 1."""
        return rows if self.normalised is None else F.normalize(rows, dim=-1)
