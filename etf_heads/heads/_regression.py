"""The head of a regression with several targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etf_heads._precision import check_dtype
from etf_heads.codes import GramCode
from etf_heads.heads._feature_norm import FeatureNorm
from etf_heads.heads._fixed import FixedHead
from etf_heads.orientation import OrientationSpec
from etf_heads.theory import regression_gram


class FixedRegressionHead(FixedHead):
    r"""The last layer of a regression, fixed to the optimal geometry of its targets.

    Andriopoulos et al., "The prevalence of neural collapse in neural multivariate regression"
    (NeurIPS 2024): at the minimum of the unconstrained feature model over n targets with
    covariance :math:`\Sigma`, the weight has the Gram matrix

    .. math:: W W^\top = \sqrt{\lambda_H / \lambda_W}\,
              [\Sigma^{1/2} - \sqrt{\lambda_W \lambda_H}\, I]_+

    (:func:`~etf_heads.theory.regression_gram`, with the objective that the λ's are of). This head
    has it, in the lengths of the theorem: there is no scale. A head fixed there loses nothing, by
    our own derivation: features :math:`H = W^\top (W W^\top + \lambda_H I)^{-1} (Y - b)` reach the
    minimum of the model whose head is learned. Train it with the squared error.

    Args:
        in_features: d, at least the number of directions in which the targets deviate by more
            than :math:`\sqrt{\lambda_W \lambda_H}`.
        target_covariance: Σ of shape (n, n), in the targets' units squared, with 1/M (not
            1/(M-1)) before the sum. See also :meth:`from_targets`.
        lambda_w: regulariser of the head, λ_W/2 ‖W‖² beside half the mean squared error. Where
            weight decay is the regulariser, the optimiser's ``weight_decay``.
        lambda_h: regulariser of the features, λ_H/(2M) ‖H‖²; the same number where weight decay
            on the layers before the head stands for it.
        bias: whether to learn a bias a target, which starts at zero.
        orientation: as in :class:`~etf_heads.ETFHead`.
        feature_norm: "batch", "layer", "unit", a module, or None.
        device: as in ``nn.Linear``.
        dtype: as in ``nn.Linear``.

    Shape:
        features (..., d) to predictions (..., n).

    Raises:
        ValueError: if Σ is not a covariance, a λ is not positive, the λ's are so large that the
            optimal head is zero, or its geometry does not fit into d dimensions.

    Note:
        Targets in other units have another Σ: scale them by one number each before, or have the
        λ's in mind. Weights are data: they are kept in ``state_dict``.

    Example:
        >>> covariance = torch.tensor([[4.0, 1.0], [1.0, 2.0]])
        >>> head = FixedRegressionHead(64, covariance, lambda_w=1e-2, lambda_h=1e-2)
        >>> head(torch.randn(8, 64)).shape, [name for name, _ in head.named_parameters()]
        (torch.Size([8, 2]), ['bias'])
        >>> head.weight @ head.weight.T  # the square root of the covariance, less 0.01
        tensor([[1.9677, 0.2976],
                [0.2976, 1.3725]])
    """

    def __init__(
        self,
        in_features: int,
        target_covariance: Tensor,
        *,
        lambda_w: float,
        lambda_h: float,
        bias: bool = True,
        orientation: OrientationSpec | None = None,
        feature_norm: FeatureNorm = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_dtype(dtype)
        gram = regression_gram(target_covariance.detach().cpu(), lambda_w, lambda_h)
        if not gram.any():
            raise ValueError(
                "the optimal head is zero: no direction of the targets deviates by more than "
                f"sqrt(lambda_w * lambda_h) = {math.sqrt(lambda_w * lambda_h):g}; give smaller λ's"
            )
        super().__init__(
            in_features,
            GramCode(gram).to(device or torch.get_default_device(), dtype),
            orientation,
            bias,
            feature_norm=feature_norm,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_targets(
        cls, in_features: int, targets: Tensor, **options: object
    ) -> FixedRegressionHead:
        """The head of the targets of a training set; a bias starts at their mean.

        Args:
            in_features: d.
            targets: (M, n), or (M,) for one target: those of the samples, M at least 2.
            options: ``lambda_w``, ``lambda_h`` and the others of the class.

        Raises:
            ValueError: if targets are not such a tensor, or not finite; and as the class.

        Example:
            >>> targets = torch.tensor([[1.0, 10.0], [3.0, 10.0], [1.0, 16.0], [3.0, 16.0]])
            >>> head = FixedRegressionHead.from_targets(8, targets, lambda_w=1e-3, lambda_h=1e-3)
            >>> torch.linalg.vector_norm(head.weight, dim=1).square()  # deviations less 0.001
            tensor([0.9990, 2.9990])
            >>> head.bias.detach()
            tensor([ 2., 13.])
        """
        if not isinstance(targets, Tensor) or not targets.is_floating_point():
            given = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
            raise ValueError(f"targets must be a tensor of a floating dtype, got {given}")
        if targets.ndim not in (1, 2) or targets.shape[0] < 2 or not targets.numel():
            raise ValueError(
                f"targets has shape {tuple(targets.shape)}; expected (samples, targets) with two "
                "samples at least"
            )
        rows = targets.detach().to("cpu", torch.float64).reshape(len(targets), -1)
        if not rows.isfinite().all():
            raise ValueError("targets have NaN or infinite entries: leave these samples out")
        mean = rows.mean(0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        head = cls(in_features, covariance, **options)  # type: ignore[arg-type]
        if head.bias is not None:
            with torch.no_grad():
                head.bias.copy_(mean)
        return head
