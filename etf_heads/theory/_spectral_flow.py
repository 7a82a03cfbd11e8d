"""Gradient flow from a Hadamard start: singular vectors stay, singular values move."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads.geometry import hadamard

# Bogacki and Shampine's third-order method with a second-order one for the error.
_THIRD = (2 / 9, 1 / 3, 4 / 9)
_SECOND = (7 / 24, 1 / 4, 1 / 3, 1 / 8)
_TOLERANCE = 1e-8  # of the logarithms, each step
_STILL = 1e-6  # slopes over the decay's alone, below which everything has come to rest
_FIRST_TIME = 1e-9  # up to here nothing has moved


def spectral_flow(singular_values: Tensor, times: Tensor, *, decay: float = 0.0) -> Tensor:
    r"""Singular values of the logits under gradient flow from :func:`hadamard_init`.

    Two linear layers, one input a class, mean cross-entropy. With the start :math:`W_2 = Q\,
    \mathrm{diag}(a)\, V^\top, W_1 = V\, \mathrm{diag}(b)\, Q^\top`, Q the Hadamard matrix, singular
    vectors never move: probabilities are :math:`Q\, \mathrm{diag}(p)\, Q^\top`, with
    :math:`p_k = \mathbb E_q[\chi_k]` for q the softmax of the logits' first column and
    :math:`\chi_k` the k-th sign vector. Here the layers are balanced, :math:`a = b`, and the
    logits' singular values :math:`s = ab` follow

    .. math:: \dot s_k = 2 s_k \left(\frac{1 - p_k}{K} - \lambda\right)

    with a decay λ/2 · |·|² on both layers; λ = 0 without. The first, the constant vector's, stays
    without decay, and so does every :math:`s_k = 0`: spurious critical points. With
    :math:`\lambda = 0` and means over k >= 1, :math:`V = \log \mathrm{mean}\, s - \mathrm{mean}
    \log s` falls, since :math:`\dot V = -\frac2K \mathrm{Cov}(s, p) / \mathrm{mean}\, s` and p is
    the gradient of a convex function of s: the logits tend to a simplex ETF, logarithmically
    slowly. (V and its proof are derived here; :math:`\max s / \min s` is not monotone.) With
    decay it is fast, and ends at :math:`\log(1/\lambda - (K - 1))` for :math:`K \lambda < 1`.

    Args:
        singular_values: s at time 0, shape (K,), K a power of two, none negative.
        times: increasing, not negative, shape (n,), of any magnitude.
        decay: λ.

    Returns:
        s at these times, float64 of shape (n, K).

    Raises:
        ValueError: if K is no power of two, a singular value or the decay is negative, or the
            times are not finite or do not increase.

    Example:
        >>> start = torch.tensor([1.0, 0.5, 0.6, 0.4])
        >>> late = spectral_flow(start, torch.tensor([0.0, 1e2, 1e6, 1e12]))
        >>> [round(v.item(), 2) for v in late[:, 1:].amax(1) / late[:, 1:].amin(1)]
        [1.5, ..., 1.0]
    """
    s = singular_values.double().clone()
    if s.ndim != 1 or len(s) < 2 or not (s.isfinite() & (s >= 0)).all():
        raise ValueError(
            "singular_values must be K finite numbers, none negative, in one dimension; got shape "
            f"{tuple(s.shape)} with least {s.min().item() if s.numel() else math.nan:g}"
        )
    if not (math.isfinite(decay) and decay >= 0):
        raise ValueError(f"decay must be zero or a positive number, got {decay!r}")
    signs = hadamard(len(s)) * math.sqrt(len(s))  # entries ±1; raises unless K = 2^m
    times = times.double()
    possible = times.isfinite() & (times >= 0)
    if times.ndim != 1 or not possible.all() or (times.diff() < 0).any():
        raise ValueError("times must be one dimension of increasing finite numbers, none negative")
    flow = _Flow(signs[:, 1:], decay)
    found, now, step = [], math.log(_FIRST_TIME), 0.1
    logs = s[1:].log()  # zeros stay at minus infinity
    for time in times.tolist():
        goal = math.log(max(time, _FIRST_TIME))
        while now < goal:
            logs, now, step = flow.advance(logs, now, goal, step)
        # The constant vector's only decays: softmax does not see it.
        constant = s[:1] * math.exp(-2 * decay * time)
        found.append(torch.cat([constant, logs.exp()]) if time > 0 else s)
    return torch.stack(found) if found else s.new_zeros(0, len(s))


class _Flow:
    """d log s / d log t, and an adaptive step along it: times of any magnitude need few steps."""

    def __init__(self, signs: Tensor, decay: float) -> None:
        self.signs = signs
        self.odd = (signs < 0).double().T
        self.decay = decay

    def slope(self, logs: Tensor, log_time: float) -> Tensor:
        """D log s / d log t."""
        # 1 - p_k as twice the probability of where χ_k is -1, which keeps its digits.
        column = self.signs @ logs.exp() / len(self.signs)
        log_q = column.log_softmax(0)
        pull = 2 * (self.odd @ (log_q + log_time).exp()) / len(self.signs)
        return 2 * (pull - self.decay * math.exp(log_time))

    def advance(
        self, logs: Tensor, now: float, goal: float, step: float
    ) -> tuple[Tensor, float, float]:
        """One accepted step that does not pass the goal, and the length to try next."""
        first = self.slope(logs, now)
        if float(first.abs().max()) < _STILL * self.decay * math.exp(now):
            return logs, goal, step
        while True:
            length = min(step, goal - now)
            second = self.slope(logs + 0.5 * length * first, now + 0.5 * length)
            third = self.slope(logs + 0.75 * length * second, now + 0.75 * length)
            moved = logs + length * (_THIRD[0] * first + _THIRD[1] * second + _THIRD[2] * third)
            fourth = self.slope(moved, now + length)
            rates = (first, second, third, fourth)
            other = logs + length * sum(w * rate for w, rate in zip(_SECOND, rates, strict=True))
            alive = logs.isfinite()
            error = float((moved - other)[alive].abs().max()) if alive.any() else 0.0
            factor = 0.9 * (_TOLERANCE / max(error, 1e-300)) ** (1 / 3)
            step = length * min(4.0, max(0.2, factor)) if math.isfinite(error) else length / 4
            if error <= _TOLERANCE:
                end = goal if length == goal - now else now + length
                return moved, end, max(step, 1e-12)
