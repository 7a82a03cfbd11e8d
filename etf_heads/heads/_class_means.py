"""The head whose class vectors are the class means themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._precision import KeepsPrecision
from etf_heads._tasks import TaskSpec
from etf_heads.heads._deriving import DerivingHead
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.heads._observation import Rule


class ClassMeanHead(KeepsPrecision, DerivingHead):
    r"""Class vectors are the running class means, of unit length and centred in each task or not.

    At neural collapse classifier and class means align ("self-duality"; Papyan, Han and Donoho,
    PNAS 2020). This head uses the means as class vectors, and leaves their angles to the
    data, so any in_features is possible. Observing works as in
    :class:`NearestETFHead`. A class without a mean (not seen yet, or, centred, the only one seen)
    has the zero vector, and logit 0. Each batch goes over the means of all classes: where these are
    many, take :class:`PrototypeHead`.

    Class means align once they are centred, :math:`\mu_k - \bar\mu`. The class-mean features
    classifier (CMF) of Jiang et al., "Generalized neural collapse for a large number of classes"
    (ICML 2024), takes them as they are: ``centred=False``. It is, as far as we know it from its
    authors' code, ``ClassMeanHead(d, K, centred=False, feature_norm="unit")`` with a scale, the
    default ``decay`` and no gradient; their average over batches counts each batch of a class the
    same, this one each sample.

    Args:
        in_features: d.
        tasks_or_classes: K for one task; a mapping or sequence of class counts for several.
        bias: whether to learn a bias a class.
        decay: as in :class:`NearestETFHead`.
        gradient: whether the loss also moves the features through the class means.
        centred: whether the mean of a task's classes is subtracted first. Features that share a
            large part, as behind a ReLU, have class means at small angles unless it is.
        update_every: take new class vectors on the first and on every n-th batch observed.
        scale: s, the length of the class vectors.
        learn_scale: learn s, from there.
        feature_norm: "batch", "layer", "unit", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``; means and vectors are kept in float32 at least.

    Attributes:
        vectors: (sum K_t, d) the unit class vectors in use.

    Shape:
        features (..., d) to logits (..., K); a dict or tuple of (..., K_t) for several tasks.

    Raises:
        ValueError: if an option is not possible.

    Example:
        >>> head = ClassMeanHead(2, 2)
        >>> head.observe(torch.tensor([[3.0, 5.0], [1.0, 5.0]]), torch.tensor([0, 1]))
        >>> head.weight
        tensor([[ 1.,  0.],
                [-1.,  0.]])
        >>> head = ClassMeanHead(2, 2, centred=False)
        >>> head.observe(torch.tensor([[3.0, 4.0], [0.0, 5.0]]), torch.tensor([0, 1]))
        >>> head.weight
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])
    """

    exact = ("vectors",)
    vectors: Tensor

    def __init__(
        self,
        in_features: int,
        tasks_or_classes: TaskSpec | int,
        bias: bool = False,
        *,
        decay: float = 0.9,
        gradient: bool = False,
        centred: bool = True,
        update_every: int = 1,
        scale: float = 1.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            tasks_or_classes,
            decay=decay,
            gradient=gradient,
            update_every=update_every,
            bias=bias,
            scale=scale,
            learn_scale=learn_scale,
            feature_norm=feature_norm,
            device=device,
            dtype=dtype,
        )
        self.centred = bool(centred)
        self.register_buffer("vectors", torch.zeros_like(self.running.means))

    def reset_parameters(self) -> None:
        """Set what is learned to its start, and forget what was observed."""
        super().reset_parameters()
        self.vectors = torch.zeros_like(self.running.means)

    def scores(self, features: Tensor) -> Tensor:
        """Inner products with the class vectors: (..., d) -> (..., sum K_t)."""
        return self._scores_with(features, self.vectors)

    def frame(self) -> Tensor:
        """The unit class vectors, shape (sum K_t, d)."""
        return self.vectors

    def frame_rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Unit class vectors of some classes: indices (...) -> (..., d)."""
        return self.vectors[indices].to(dtype)

    def _rule(self) -> Rule:
        kind = "centred means" if self.centred else "means"
        return Rule(kind, self.tasks.sizes, self.tasks.names or (), self.decay, self.update_every)

    def _frame_in_use(self) -> Tensor:
        return self.vectors

    def _keep(self, derived: Tensor) -> None:
        self.vectors = derived

    def _scores_with(self, features: Tensor, derived: Tensor) -> Tensor:
        return features @ derived.to(features.dtype).transpose(0, 1)

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return f"{super().extra_repr()}, centred={self.centred}"
