"""The optimal head geometry of any joint label distribution, with a certificate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etf_heads.theory._checks import positive, weights_of
from etf_heads.theory._convex import FactoredProblem
from etf_heads.theory._counts import JointCounts
from etf_heads.theory._newton import minimise
from etf_heads.theory._progress import Progress

_RANK_CUT = 1e-6  # of the largest eigenvalue


@dataclass(frozen=True, eq=False)
class OptimalGeometry:
    """The optimum of the unconstrained feature model, and how sure of it one can be.

    Attributes:
        counts: the label tuples of the problem.
        gram: Gram matrix W Wᵀ of the class vectors, float64 of shape (sum K_t, sum K_t).
        logits: of every label tuple, shape (G, sum K_t), in the order of ``counts.labels``.
        objective: value reached, an upper bound of the minimum.
        duality_gap: (objective - proven lower bound) / objective.
        iterations: Newton steps taken.
        rank: dimensions that the class vectors span.
        gram_error: estimated absolute error of the entries of ``gram``, ten square roots of the
            duality gap times the largest entry. The objective grows quadratically about its
            minimum; the factor ten is from experience (64 problems, up to 8.6), not proven. A
            class vector whose squared norm is below it may as well be zero.
    """

    counts: JointCounts
    gram: Tensor
    logits: Tensor
    objective: float
    duality_gap: float
    iterations: int
    rank: int

    @property
    def gram_error(self) -> float:
        # Objectives are sums with a few roundings: a gap of 0 proves no more than that.
        gap = max(self.duality_gap, 4 * torch.finfo(torch.float64).eps)
        return 10 * math.sqrt(gap) * float(self.gram.diagonal().max())

    def cosines(self) -> Tensor:
        """Cosines between class vectors, NaN where one is zero; shape (sum K_t, sum K_t)."""
        norms = self.gram.diagonal().sqrt()
        return self.gram / (norms[:, None] * norms)


@torch.no_grad()
def optimal_gram(
    label_counts: Tensor | JointCounts,
    lambda_w: float,
    lambda_h: float,
    task_weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
    *,
    tolerance: float = 1e-11,
    max_iterations: int = 200,
    progress: bool | None = None,
) -> OptimalGeometry:
    r"""Optimal Gram matrix of the class vectors for any joint label distribution.

    "Neural Collapse in Multi-Task Learning" has closed forms for balanced tasks (Theorem 3.1) and
    for two correlated binary tasks (Theorem 5.1). Here the tasks, their classes and the
    correlation of their labels are arbitrary; one task with unequal classes is included. With Z
    the logits (a row a class, a column a label tuple), :math:`D_n = \mathrm{diag}(n_g)` and
    :math:`D_c` the task weights repeated for their classes, the unconstrained feature model
    (:class:`UnconstrainedFeatureModel`) has the minimum of the convex problem

    .. math:: \min_Z \sum_g \frac{n_g}{N} \sum_t c_t\, \mathrm{CE}(Z^t_g, y^t_g)
              + 2 \sqrt{\lambda_W \lambda_H}\, \| D_c^{1/2} Z D_n^{1/2} \|_*

    and at its solution :math:`D_c^{1/2} Z D_n^{1/2} = U S V^\top` the class vectors have
    :math:`D_c^{1/2} W W^\top D_c^{1/2} = \sqrt{\lambda_H / \lambda_W}\, U S U^\top`.

    A trust-region Newton method works on a square factor of that matrix, with one feature a label
    tuple eliminated, and stops when the duality gap is within the tolerance: the answer is proven,
    not hoped for. With S = sum K_t, r = S - T and G tuples, a step is some dozens of products of
    (G, S) and (S, r) matrices, on a few arrays of (G, S) numbers; with few classes a task (r up to
    32 T), :math:`G r^2` numbers are kept instead. 1,000 classes with as many different counts take
    about a minute to a gap of 1e-6 on one CPU core.

    Args:
        label_counts: samples by label tuple, shape (K_1, ..., K_T); or :class:`JointCounts`, for
            more tuples than a tensor can hold. Fractions are allowed.
        lambda_w: regulariser of the class vectors, mean-loss convention
            (:func:`mean_loss_lambdas` converts).
        lambda_h: regulariser of the features.
        task_weights: c_t by task name, or in order; 1 each when None.
        tolerance: relative duality gap to stop at. Errors of the Gram matrix are of the order of
            its square root (``gram_error``).
        max_iterations: Newton steps to stop after.
        progress: show a line on the standard error stream; when None, on work of more than two
            seconds in a terminal.

    Returns:
        The :class:`OptimalGeometry`, on the device of the counts.

    Raises:
        ValueError: if a count is negative or not finite, a class has no sample, a λ is not
            positive, or the task weights do not match the tasks.

    Warns:
        RuntimeWarning: if the gap stays above the tolerance; ``duality_gap`` says by how much.

    Example:
        Two binary tasks whose labels agree in 90 of 100 samples lean towards each other:

        >>> best = optimal_gram(torch.tensor([[180, 20], [20, 180]]), 5e-3, 1e-5)
        >>> round(best.cosines()[0, 2].item(), 6)
        0.581874
        >>> best.duality_gap <= 1e-11
        True
    """
    positive(lambda_w=lambda_w, lambda_h=lambda_h, tolerance=tolerance)
    counts = JointCounts.parse(label_counts)
    weights = weights_of(counts.tasks, task_weights)
    strength = 2 * math.sqrt(lambda_w * lambda_h * counts.total)
    line = Progress(progress)
    try:
        problem = FactoredProblem(counts, strength, weights)
        solution = minimise(problem, tolerance, max_iterations, line)
    finally:
        line.close()
    if solution.relative_gap > tolerance:
        warnings.warn(
            f"optimal_gram stopped at a relative duality gap of {solution.relative_gap:.1e}, above "
            f"tolerance={tolerance:g}, after {solution.iterations} iterations",
            RuntimeWarning,
            stacklevel=3,  # past the no_grad wrapper
        )
    vectors = solution.point.class_vectors
    spectrum = torch.linalg.eigvalsh(solution.point.factor @ solution.point.factor.T)
    return OptimalGeometry(
        counts=counts,
        gram=math.sqrt(lambda_h * counts.total / lambda_w) * (vectors @ vectors.T),
        logits=solution.point.features @ vectors.T,
        objective=solution.point.value,
        duality_gap=solution.relative_gap,
        iterations=solution.iterations,
        rank=int((spectrum > _RANK_CUT * spectrum[-1]).sum()),
    )
