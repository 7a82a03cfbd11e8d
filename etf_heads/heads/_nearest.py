"""The head whose frame is the ETF nearest to the class means."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads.codes import SimplexCode
from etf_heads.geometry import Solver, nearest_orientation
from etf_heads.heads._compound import CompoundETFHead
from etf_heads.heads._deriving import DerivingHead
from etf_heads.heads._etf import ETFHead
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.heads._fixed import FixedHead
from etf_heads.heads._observation import Rule
from etf_heads.orientation import MatrixOrientation, TiledOrientation


class NearestETFHead(DerivingHead):
    r"""A simplex ETF, or compound ETF, that turns to be nearest to the running class means.

    Markou, Ajanthan and Gould, "Guiding Neural Collapse: Optimising Towards the Nearest Simplex
    Equiangular Tight Frame" (NeurIPS 2024), here in closed form and for several tasks at once
    (:func:`~etf_heads.geometry.nearest_orientation`). The angles between class vectors are
    those of :class:`ETFHead` and :class:`CompoundETFHead`; only the orientation follows::

        logits = head(features, labels)    # in training: observes the batch first
        logits = head(features)            # in eval mode, or with labels unknown
        head.observe(features, labels)     # observes only

    Until something is observed the frame is the tiled one (:class:`TiledOrientation`). Classes
    not seen yet get the frame nearest to the one at hand. The means, how many samples stand
    behind them, and the orientation in use are in ``state_dict``, so that a run resumes exactly.

    Args:
        in_features: d, at least :math:`\sum K_t - T`.
        tasks_or_classes: K for one task; a mapping or sequence of class counts for several.
        bias: whether to learn a bias a class.
        solver: "polar", exact; or "riemannian", which descends from the frame at hand with
            geoopt to the same result, to about 1e-7 (1e-3 in float32), and needs
            ``gradient=False``.
        decay: factor of the weight of older samples of the classes in each batch, in (0, 1]; 1
            for the mean over all samples. 0.9 is about the last ten batches of each class.
        gradient: whether the loss also moves the features through the polar factor, as the
            paper does; costs one more pass through it.
        update_every: turn the frame on the first and on every n-th batch observed.
        proximal: :math:`\delta`, how strongly the frame keeps to the one before.
        scale: s, the length of the class vectors.
        learn_scale: learn s, from there.
        feature_norm: "batch", "layer", "unit", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``; the geometry is kept in float32 at least.

    Shape:
        features (..., d) to logits (..., K); a dict or tuple of (..., K_t) for several tasks.

    Raises:
        ValueError: if the tasks do not fit into d dimensions, or an option is not possible.

    Example:
        >>> head = NearestETFHead(8, 3)
        >>> features, labels = 3 * torch.eye(8)[[4, 6, 7]], torch.tensor([0, 1, 2])
        >>> head.observe(features, labels)
        >>> head(features).argmax(-1).tolist()
        [0, 1, 2]
        >>> type(head.freeze()).__name__
        'ETFHead'
    """

    orientation: MatrixOrientation

    def __init__(
        self,
        in_features: int,
        tasks_or_classes: TaskSpec | int,
        bias: bool = False,
        *,
        solver: Solver = "polar",
        decay: float = 0.9,
        gradient: bool = False,
        update_every: int = 1,
        proximal: float = 0.0,
        scale: float = 1.0,
        learn_scale: bool = False,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        tasks = Tasks.parse(tasks_or_classes, "tasks_or_classes")
        check_fit(positive_int(in_features, "in_features"), tasks)
        if gradient and solver != "polar":
            raise ValueError(f"gradient=True needs solver='polar', got solver={solver!r}")
        # Options that it would refuse at the first observation are refused here.
        nearest_orientation(torch.zeros(2, 1, device="cpu"), proximal=proximal, solver=solver)
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
        self.solver = solver
        self.proximal = float(proximal)
        self.codebook = SimplexCode(tasks, tasks.rank)
        self.orientation = MatrixOrientation(_tiled(in_features, tasks, self.running.means))

    def reset_parameters(self) -> None:
        """Set what is learned to its start, and forget what was observed."""
        super().reset_parameters()
        self.orientation.basis = _tiled(self.in_features, self.tasks, self.running.means)

    def scores(self, features: Tensor) -> Tensor:
        """Products C Uᵀ h: (..., d) -> (..., sum K_t)."""
        return self.codebook(self.orientation(features))

    def frame(self) -> Tensor:
        """C Uᵀ, shape (sum K_t, d), made on request."""
        return self.codebook.expand(self.orientation.matrix()).mT

    def frame_rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of C Uᵀ: indices (...) of classes -> (..., d)."""
        return self.orientation.lift(self.codebook.vectors(indices, dtype=dtype))

    @torch.no_grad()
    def freeze(self) -> FixedHead:
        """An ordinary fixed head with these logits: no class means, nothing to update.

        Returns:
            An :class:`ETFHead` for one task, a :class:`CompoundETFHead` for several, with copies
            of the orientation, of the normalisation, and of scale and bias (learned as here).
        """
        return fixed_head(
            self.orientation.basis,
            self.tasks,
            bias=self.bias,
            scale=self.scale,
            feature_norm=copy.deepcopy(self.norm),
            like=self._like,
        ).train(self.training)

    def _rule(self) -> Rule:
        return Rule(
            "nearest",
            self.tasks.sizes,
            self.tasks.names or (),
            self.decay,
            self.update_every,
            self.proximal,
            self.solver,
        )

    def _frame_in_use(self) -> Tensor:
        return self.orientation.basis

    def _keep(self, derived: Tensor) -> None:
        self.orientation.basis = derived.contiguous()

    def _scores_with(self, features: Tensor, derived: Tensor) -> Tensor:
        return self.codebook(features @ derived.to(features.dtype))

    def extra_repr(self) -> str:
        """Sizes and options, for ``print(module)``."""
        return f"{super().extra_repr()}, solver={self.solver}, proximal={self.proximal:g}"


@torch.no_grad()
def fixed_head(
    orientation: Tensor,
    tasks: Tasks,
    *,
    bias: Tensor | None,
    scale: float | Tensor,
    feature_norm: FeatureNorm = None,
    like: Tensor,
) -> FixedHead:
    """An ETF head of a given orientation (d, sum K_t - T), with copies of a bias and a scale."""
    options: dict[str, Any] = {
        "bias": bias is not None,
        "orientation": MatrixOrientation(orientation),
        "scale": float(scale),
        "learn_scale": isinstance(scale, nn.Parameter),
        "feature_norm": feature_norm,
        "device": like.device,
        "dtype": like.dtype,
    }
    head: FixedHead
    if tasks.single:
        head = ETFHead(len(orientation), tasks.total, **options)
    else:
        head = CompoundETFHead(len(orientation), tasks.pack(tasks.sizes), **options)
    if bias is not None and head.bias is not None:
        head.bias.copy_(bias)
    return head


def _tiled(in_features: int, tasks: Tasks, like: Tensor) -> Tensor:
    matrix = TiledOrientation(in_features, tasks.rank).matrix(device=like.device)
    return matrix.to(like.dtype).contiguous()


def check_fit(in_features: int, tasks: Tasks) -> None:
    if in_features < tasks.rank:
        raise ValueError(
            f"in_features={in_features} is too small for orthogonal simplex ETFs of "
            f"{list(tasks.sizes)} classes: {tasks.rank} needed; or use ClassMeanHead, or "
            "CompoundETFHead with cross_task='independent'"
        )
