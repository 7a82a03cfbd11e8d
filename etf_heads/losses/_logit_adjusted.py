"""Cross-entropy for long-tailed classes: logits adjusted by class frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etf_heads._labels import NO_LABEL
from etf_heads._tasks import TaskWeights
from etf_heads.losses._classifiers import Classifier
from etf_heads.losses._cross_entropy import CrossEntropy
from etf_heads.losses._task_loss import Reduction

ClassCounts = Tensor | Sequence[int]


def logit_prior(counts: ClassCounts, tau: float = 1.0) -> Tensor:
    r"""The logarithms of class frequencies, :math:`\tau \log(n_k / N)`, shape (K,).

    Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021). Added to the logits in
    training (:class:`LogitAdjustedCrossEntropy`), or subtracted from those of a network that was
    trained without, they make the decisions those of balanced classes.

    Args:
        counts: samples of each class, positive.
        tau: :math:`\tau`; 1 is the Bayes-consistent choice.

    Raises:
        ValueError: if a class has no sample, or tau is not a number.

    Example:
        >>> logit_prior([90, 10])
        tensor([-0.1054, -2.3026])
    """
    given = torch.as_tensor(counts)
    if given.ndim != 1 or given.is_complex() or not len(given):
        raise ValueError(f"counts must be one number a class, got shape {tuple(given.shape)}")
    if not math.isfinite(tau):
        raise ValueError(f"tau must be a finite number, got {tau!r}")
    numbers = given.double()
    empty = (~((numbers > 0) & numbers.isfinite())).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"counts must be positive: classes {empty[:8]} have no sample")
    return (tau * (numbers / numbers.sum()).log()).to(torch.get_default_dtype())


class LogitAdjustedCrossEntropy(CrossEntropy):
    r"""Softmax cross-entropy of logits plus the logarithms of class frequencies.

    .. math:: L = \sum_t c_t \, \frac1{N_t} \sum_{i \text{ labelled for } t}
              \mathrm{CE}(W^t h_i + b^t + \tau \log \pi^t,\; y_i^t)

    Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), for any head. The logits
    themselves, without the addend, decide at test time.

    Args:
        counts: training samples of each class: (K,), or one such a task, by name or in order.
        tau: :math:`\tau`, see :func:`logit_prior`.
        label_smoothing: as in :class:`CompoundCrossEntropy`.
        task_weights: as in :class:`CompoundCrossEntropy`.
        ignore_index: as in :class:`CompoundCrossEntropy`.
        reduction: as in :class:`CompoundCrossEntropy`.

    Shape:
        as :class:`CompoundCrossEntropy`.

    Raises:
        ValueError: as :class:`CompoundCrossEntropy`, if a class has no sample, or counts are of
            other classes than the head's.

    Example:
        >>> from etf_heads import ETFHead
        >>> criterion = LogitAdjustedCrossEntropy([500, 50, 5])
        >>> features, labels = torch.randn(8, 64), torch.tensor([0, 0, 0, 0, 0, 0, 1, 2])
        >>> loss = criterion(features, ETFHead(64, 3), labels)
    """

    streamed = False
    prior: Tensor

    def __init__(
        self,
        counts: ClassCounts | Mapping[str, ClassCounts] | Sequence[ClassCounts],
        tau: float = 1.0,
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
        self.tau = float(tau)
        self.names = tuple(counts) if isinstance(counts, Mapping) else None
        priors = [logit_prior(given, tau) for given in _by_task(counts)]
        self.sizes = [len(prior) for prior in priors]
        self.register_buffer("prior", torch.cat(priors), persistent=False)

    def logits(self, features: Tensor, head: Classifier) -> Tensor:
        """Logits of all tasks, and their prior: (..., sum K_t)."""
        priors: Sequence[Tensor] = self.prior.split(self.sizes)
        named = priors if self.names is None else dict(zip(self.names, priors, strict=True))
        ordered = head.tasks.unpack(named, "counts")
        sizes = tuple(map(len, ordered))
        if sizes != head.tasks.sizes:
            raise ValueError(f"counts are of {sizes} classes, the head has {head.tasks.sizes}")
        return head.all_softmax_logits(features) + torch.cat(ordered)

    def extra_repr(self) -> str:
        """Options, for ``print(module)``."""
        return f"tau={self.tau:g}, {super().extra_repr()}"


def _by_task(counts: Any) -> list[ClassCounts]:
    if isinstance(counts, Mapping):
        return list(counts.values())
    one_task = not len(counts) or torch.as_tensor(counts[0]).ndim == 0
    return [counts] if one_task else list(counts)
