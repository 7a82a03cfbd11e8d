"""The head of class means for many classes: rows of low precision, of which a step touches few."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._labels import Labels, stack_labels
from etf_heads._precision import at_least_float32
from etf_heads._tasks import Tasks, TaskSpec
from etf_heads._tracing import is_symbolic
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.heads._observing import ObservingHead
from etf_heads.heads._running_means import unit_rows
from etf_heads.heads._running_rows import RunningRows


class PrototypeHead(ObservingHead):
    r"""Running class means as class vectors, for far more classes than dimensions.

    The class vectors are those of :class:`ClassMeanHead` with ``centred=False``: the mean feature
    of each class, of unit length (the class-mean features of Jiang et al., "Generalized neural
    collapse for a large number of classes", ICML 2024). Here they are made of the means when they
    are needed, and the means are kept in bfloat16: 2 K d bytes, and 4 K of the weights of samples,
    where an ``nn.Linear`` with AdamW takes 16 K d. There is no gradient of K x d entries and no
    optimiser state.

    A step of :meth:`observe` and a loss of :class:`~etf_heads.losses.NONL` or
    :class:`~etf_heads.losses.NTCE` reads and writes the rows of the batch's classes only, in time
    and memory that do not depend on K. Logits take O(K d) for each sample; :meth:`topk` makes them
    in blocks of classes.

    Sums in bfloat16 stall when a step is smaller than half of the last digit. These are rounded
    at random, so that they are right on average, by a hash of the step, the class and the
    feature: a run that is resumed rounds as one that was not, and all processes round alike.

    Args:
        in_features: d.
        tasks_or_classes: K for one task; a mapping or sequence of class counts for several.
        bias: whether to learn a bias a class.
        decay: each batch in which a class occurs multiplies the weight of that class's older
            samples by it; 1 for the mean over everything seen.
        means_dtype: ``torch.bfloat16``, ``torch.float32`` or ``torch.float64``, of the means,
            whatever the head is moved to.
        scale: s, the length of the class vectors: the inverse of the softmax temperature.
        learn_scale: learn s, from there.
        feature_norm: "unit" (default), "batch", "layer", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``, of what is learned and of :attr:`weight`.

    Shape:
        features (..., d) to logits (..., K); a dict or tuple of (..., K_t) for several tasks.
        :meth:`observe` takes labels as :class:`ClassMeanHead` does, and -100 for samples that
        have none.

    Raises:
        ValueError: if an option is not possible.

    Note:
        Class means are equal in all processes. ``DistributedDataParallel`` sends them from one to
        the others before each forward all the same, unless built with ``broadcast_buffers=False``.

    Example:
        >>> from etf_heads.losses import NONL
        >>> head, criterion = PrototypeHead(64, 100_000), NONL(temperature=0.1)
        >>> features, labels = torch.randn(32, 64, requires_grad=True), torch.arange(32) * 3_000
        >>> head.observe(features, labels)  # before the loss: a class not seen has no vector
        >>> criterion(features, head, labels).backward()
        >>> values, classes = head.topk(features, 1)
        >>> torch.equal(classes[:, 0], labels)
        True
    """

    running: RunningRows

    def __init__(
        self,
        in_features: int,
        tasks_or_classes: TaskSpec | Tasks | int,
        bias: bool = False,
        *,
        decay: float = 0.9,
        means_dtype: torch.dtype = torch.bfloat16,
        scale: float = 16.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = "unit",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            tasks_or_classes,
            bias=bias,
            scale=scale,
            learn_scale=learn_scale,
            feature_norm=feature_norm,
            device=device,
            dtype=dtype,
        )
        self.running = RunningRows(self.tasks, in_features, decay, device=device, dtype=means_dtype)

    @property
    def means_dtype(self) -> torch.dtype:
        """The dtype in which the class means are kept."""
        return self.running.means.dtype

    def scores(self, features: Tensor) -> Tensor:
        """Inner products with the class vectors: (..., d) -> (..., sum K_t)."""
        if is_symbolic(features):  # a trace would keep the class vectors as they are now
            return features @ unit_rows(self.running.means.to(features.dtype)).mT
        return features @ self.frame().to(features.dtype).mT

    def frame(self) -> Tensor:
        """The unit class vectors, shape (sum K_t, d), made on request."""
        return unit_rows(self.running.means.to(at_least_float32(self._like.dtype)))

    def frame_rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Unit class vectors of some classes: indices (...) -> (..., d)."""
        return unit_rows(self.running.means[indices].to(at_least_float32(dtype))).to(dtype)

    def _observe(self, features: Tensor, labels: Labels) -> None:
        stacked = stack_labels(labels, self.tasks, tuple(features.shape[:-1]))
        compiling = torch.compiler.is_compiling()
        if not compiling and self._is_recomputed(stacked):
            return
        self.running.update(features.detach(), stacked)
        if not compiling:
            self._last = stacked

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return f"{super().extra_repr()}, means_dtype={self.means_dtype}"
