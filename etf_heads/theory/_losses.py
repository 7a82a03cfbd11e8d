"""Losses under which class vectors collapse to simplex ETFs, as functions of the logit gap."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from etf_heads._tasks import Tasks
from etf_heads.theory._roots import falling_root


class GapLoss(ABC):
    r"""A loss with :math:`L(z, k) \ge \varphi(a)`, a the right logit less the mean of the others.

    Equality holds if and only if the wrong logits are equal (and, for :class:`SquaredError`, the
    logits have mean zero). If :math:`\varphi(a) + \mathrm{const} \cdot a` has a unique minimum,
    balanced tasks under such losses, each with its own, end in simplex ETFs that are orthogonal to
    each other: the dual matrix of Theorem 3.1's proof has spectral norm 1 whatever the loss. This
    generalisation of "Neural Collapse in Multi-Task Learning" is our own derivation, checked
    against descent; with label smoothing and focal loss it agrees with Zhou et al. ("Are all
    losses created equal", NeurIPS 2022).

    Attributes:
        convex: whether the loss is convex in the logits.
    """

    convex: ClassVar[bool] = True

    @abstractmethod
    def value(self, num_classes: int, gap: float) -> float:
        """φ(a): the loss where the right logit stands a above the others."""

    @abstractmethod
    def slope(self, num_classes: int, gap: float) -> float:
        """-φ'(a): what a larger gap gains."""

    @abstractmethod
    def gap(self, num_classes: int, price: float) -> float:
        r"""The global minimiser of :math:`\varphi(a) + (K-1)\, q\, a` over a >= 0.

        Args:
            num_classes: K.
            price: q; may be 0, where the gap can be infinite.
        """

    @abstractmethod
    def zero_price(self, num_classes: int) -> float:
        """The price q from which the best gap is 0."""

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each sample: (..., K) logits and (...) labels -> (...)."""


@dataclass(frozen=True)
class CrossEntropy(GapLoss):
    r"""Cross-entropy, with :mod:`torch`'s label smoothing α.

    .. math:: \varphi(a) = \log(1 + (K-1) e^{-a}) + \alpha \tfrac{K-1}{K} a, \qquad
              a = \log\left(\frac{1}{q + \alpha/K} - (K-1)\right)

    To train with it take :class:`etf_heads.losses.CompoundCrossEntropy`.

    The head is zero from :math:`q = (1-\alpha)/K` on. With α > 0 the gap stays finite without
    regularisation: :math:`\log(K/\alpha - (K-1))`.

    Args:
        label_smoothing: α in [0, 1).

    Raises:
        ValueError: if α is outside [0, 1).

    Example:
        >>> round(CrossEntropy(label_smoothing=0.1).gap(10, price=0.0), 6)
        4.51086
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing!r} must be in [0, 1)")

    def value(self, num_classes: int, gap: float) -> float:
        """φ(a)."""
        smoothed = self.label_smoothing * (num_classes - 1) / num_classes * gap
        return math.log1p((num_classes - 1) * math.exp(-gap)) + smoothed

    def slope(self, num_classes: int, gap: float) -> float:
        """-φ'(a)."""
        wrong = math.exp(-gap) / (1 + (num_classes - 1) * math.exp(-gap))
        return (num_classes - 1) * (wrong - self.label_smoothing / num_classes)

    def gap(self, num_classes: int, price: float) -> float:
        """The minimiser, in closed form."""
        wrong = price + self.label_smoothing / num_classes
        if wrong == 0:
            return math.inf
        if wrong * num_classes >= 1:
            return 0.0
        return math.log(1 / wrong - (num_classes - 1))

    def zero_price(self, num_classes: int) -> float:
        """(1 - α)/K."""
        return (1 - self.label_smoothing) / num_classes

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each sample."""
        log_probabilities = logits.log_softmax(-1)
        right = -log_probabilities.gather(-1, labels[..., None]).squeeze(-1)
        smoothed = -log_probabilities.mean(-1)
        return (1 - self.label_smoothing) * right + self.label_smoothing * smoothed


@dataclass(frozen=True)
class SquaredError(GapLoss):
    r"""Half the squared distance to the centred target :math:`\kappa (e_k - \mathbf 1/K)`.

    With the target :math:`\kappa e_k` and free biases the minimum is the same; without biases
    several tasks would share a direction for the mean of their targets, and the optimum would be
    no compound ETF. To train with it take :class:`etf_heads.losses.CompoundSquaredError`.

    .. math:: \varphi(a) = \tfrac12 \left(1 - \tfrac1K\right) (a - \kappa)^2, \qquad
              a = [\kappa - K q]_+

    Args:
        target: κ > 0.

    Raises:
        ValueError: if κ is not positive.

    Example:
        >>> SquaredError(target=5.0).gap(10, price=0.01)
        4.9
    """

    target: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.target) and self.target > 0):
            raise ValueError(f"target must be a positive number, got {self.target!r}")

    def value(self, num_classes: int, gap: float) -> float:
        """φ(a)."""
        return 0.5 * (1 - 1 / num_classes) * (gap - self.target) ** 2

    def slope(self, num_classes: int, gap: float) -> float:
        """-φ'(a)."""
        return (1 - 1 / num_classes) * (self.target - gap)

    def gap(self, num_classes: int, price: float) -> float:
        """The minimiser, in closed form."""
        return max(0.0, self.target - num_classes * price)

    def zero_price(self, num_classes: int) -> float:
        """κ/K."""
        return self.target / num_classes

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each sample."""
        num_classes = logits.shape[-1]
        right = labels[..., None] == torch.arange(num_classes, device=labels.device)
        targets = right.to(logits.dtype) - 1 / num_classes
        return 0.5 * (logits - self.target * targets).square().sum(-1)


@dataclass(frozen=True)
class Focal(GapLoss):
    r"""Focal loss :math:`-(1-p)^\gamma \log p` of the right class's probability p (Lin et al.).

    With :math:`p = 1/(1 + (K-1) e^{-a})` the gap is the largest root of

    .. math:: (1-p)^\gamma \left[(1-p) - \gamma p \log p\right] = (K-1)\, q

    unless a = 0 is better. φ is concave for small p (γ = 1: p < 0.0432; 2: 0.0578; 3: 0.0575): with
    many classes the gap does not open at the zero-head threshold but jumps. The threshold is
    :math:`(K-1)\, q^* = \max_a (\varphi(0) - \varphi(a))/a`.
    To train with it take :class:`etf_heads.losses.CompoundFocal`.

    Args:
        gamma: γ >= 0; 0 is cross-entropy.

    Raises:
        ValueError: if γ is negative.

    Example:
        >>> round(Focal(2.0).gap(10, price=2 * (5e-3 * 1e-5 * 400 / 10) ** 0.5), 6)
        3.526055
    """

    convex: ClassVar[bool] = False
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(f"gamma must be zero or a positive number, got {self.gamma!r}")

    def value(self, num_classes: int, gap: float) -> float:
        """φ(a)."""
        odds = (num_classes - 1) * math.exp(-gap)  # (1 - p)/p
        return (odds / (1 + odds)) ** self.gamma * math.log1p(odds)

    def slope(self, num_classes: int, gap: float) -> float:
        """-φ'(a)."""
        odds = (num_classes - 1) * math.exp(-gap)
        right, wrong = 1 / (1 + odds), odds / (1 + odds)
        return wrong**self.gamma * (wrong + self.gamma * right * math.log1p(odds))

    def gap(self, num_classes: int, price: float) -> float:
        """The largest root, by bisection, compared with zero."""
        if price == 0:
            return math.inf
        goal = (num_classes - 1) * price
        steepest = self._steepest(num_classes)
        if self.slope(num_classes, steepest) <= goal:
            return 0.0
        root = falling_root(lambda a: self.slope(num_classes, a) - goal, steepest)
        best = self.value(num_classes, root) + goal * root
        return root if best < self.value(num_classes, 0.0) else 0.0

    def zero_price(self, num_classes: int) -> float:
        """The largest mean slope from zero, where its derivative changes sign."""
        at_zero = self.value(num_classes, 0.0)

        def excess(gap: float) -> float:
            """Of the slope at the gap over the mean slope from zero, times the gap."""
            gain = at_zero - self.value(num_classes, gap)
            return self.slope(num_classes, gap) * gap - gain

        steepest = self._steepest(num_classes)
        if steepest == 0:
            return self.slope(num_classes, 0.0) / (num_classes - 1)
        return self.slope(num_classes, falling_root(excess, steepest)) / (num_classes - 1)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each sample."""
        log_right = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
        return -((-torch.expm1(log_right)) ** self.gamma) * log_right

    def _steepest(self, num_classes: int) -> float:
        """The gap at which -φ' is largest: it falls from there on."""
        low, high = 0.0, math.log(num_classes) + 5.0  # where p > 0.99, far in the convex part
        for _ in range(200):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            if self.slope(num_classes, left) < self.slope(num_classes, right):
                low = left
            else:
                high = right
        return low if low > 1e-9 else 0.0


LossSpec: TypeAlias = GapLoss | Mapping[str, GapLoss] | Sequence[GapLoss] | None


def losses_of(tasks: Tasks, losses: LossSpec) -> tuple[GapLoss, ...]:
    """One loss a task: the same for all, or by name, or in order; cross-entropy when None."""
    if losses is None:
        losses = CrossEntropy()
    if isinstance(losses, GapLoss):
        return (losses,) * len(tasks)
    found = tasks.unpack(losses, "losses")
    for name, loss in zip(tasks.labels, found, strict=True):
        if not isinstance(loss, GapLoss):
            raise ValueError(
                f"losses[{name}] must be a CrossEntropy, Focal or SquaredError of "
                f"etf_heads.theory, got {loss!r}"
            )
    return found
