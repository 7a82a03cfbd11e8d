"""Parameter-free normalisation of features, for fixed and learned heads alike.

It matters more than the choice of head, so a comparison has to offer it to both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from etf_heads._precision import at_least_float32, check_dtype, gathered
from etf_heads._tracing import call_recorded, is_recorded

NormName = Literal["batch", "layer", "unit"]
FeatureNorm = NormName | nn.Module | None
"""A name, any module that keeps the shape (..., d), or None for nothing."""


class BatchFeatureNorm(nn.BatchNorm1d):
    """Batch normalisation without learned parameters, for features of shape (..., d).

    Statistics are those of each process, as in ``nn.BatchNorm1d``, unless
    ``nn.SyncBatchNorm.convert_sync_batchnorm(model)`` replaces it; heads take features of any
    shape (..., d) behind that, too.
    """

    def __init__(
        self,
        in_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, affine=False, device=device, dtype=dtype)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise every feature over all leading dimensions: (..., d) -> (..., d)."""
        if (recorded := call_recorded(self, features)) is not None:
            return recorded
        return flattened(self, super().forward, features)


class UnitFeatureNorm(nn.Module):
    """Features divided by their Euclidean length; a zero vector stays zero.

    With it, a head's ``scale`` is the inverse of a softmax temperature.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalise each feature vector: (..., d) -> (..., d)."""
        if (recorded := call_recorded(self, features)) is not None:
            return recorded
        vectors = features.to(at_least_float32(features.dtype))
        # Squares of numbers near 1 neither overflow nor vanish; a zero vector is divided by 1.
        largest = vectors.detach().abs().amax(-1, keepdim=True)
        vectors = vectors / largest.where(largest > 0, 1)
        length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        return (vectors / length.clamp_min(1)).to(features.dtype)


def feature_norm(
    kind: FeatureNorm,
    in_features: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module | None:
    r"""The parameter-free normalisation that heads put before their projection.

    Args:
        kind: "batch" (each feature to mean 0 and variance 1 over the batch; keeps running
            statistics), "layer" (each sample to mean 0 and variance 1), "unit" (each sample to
            length 1), a module of one's own, or None.
        in_features: d.
        device: of the running statistics.
        dtype: of the running statistics.

    Returns:
        A module that maps (..., d) to (..., d), or None.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> norm = feature_norm("unit", 2)
        >>> norm(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    check_dtype(dtype)
    if kind is None or isinstance(kind, nn.Module):
        return kind
    if kind == "batch":
        return BatchFeatureNorm(in_features, device=device, dtype=dtype)
    if kind == "layer":
        return nn.LayerNorm(in_features, elementwise_affine=False)
    if kind == "unit":
        return UnitFeatureNorm()
    raise ValueError(
        f"feature_norm must be 'batch', 'layer', 'unit', a module or None; got {kind!r}"
    )


make_norm = feature_norm
"""The same function for constructors, whose argument hides the name above."""


def flattened(norm: _BatchNorm, forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Features (..., d) through a batch normalisation, whose forward takes (N, d)."""
    if is_recorded() and not norm.training and norm.running_mean is not None:
        # The exporter of ONNX that records takes no batch normalisation of reshaped features.
        factor, shift = _factor_and_shift(norm)
        return features * factor + shift
    if features.ndim == 2:
        return forward(features)
    return forward(features.reshape(-1, features.shape[-1])).view(features.shape)


def normalised(norm: nn.Module, features: Tensor) -> Tensor:
    """Features (..., d) through a normalisation of that shape, or one of torch's over a batch.

    torch's would take the second of three dimensions for the features.
    """
    if isinstance(norm, _BatchNorm) and not isinstance(norm, BatchFeatureNorm):
        return flattened(norm, norm, features)
    return norm(features)


def folded(norm: nn.Module, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and shift of W norm(h), in eval mode.

    Raises:
        ValueError: if the normalisation is not linear then.
    """
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            f"{type(norm).__name__} does not fold into a linear layer: build the head with "
            "feature_norm=None or 'batch', or export the normalisation beside it"
        )
    factor, shift = _factor_and_shift(norm)
    return weight * factor, weight @ shift


def _factor_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """A batch normalisation in eval mode as features times a factor plus a shift, both (d,)."""
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        factor = factor * gathered(norm.weight)
    shift = -norm.running_mean * factor
    return factor, shift if norm.bias is None else shift + gathered(norm.bias)


def norm_name(norm: nn.Module | None, in_features: int) -> FeatureNorm:
    """The inverse of :func:`feature_norm`: a module that a name makes, by its name."""
    if isinstance(norm, nn.SyncBatchNorm):  # what it converts to is the same head's
        norm = _unsynchronised(norm)
    for name in get_args(NormName):
        if repr(norm) == repr(feature_norm(name, in_features, device="meta")):
            return name
    return norm


def _unsynchronised(norm: nn.SyncBatchNorm) -> nn.Module:
    """The batch normalisation that was converted, where it was one without learned parameters."""
    plain = BatchFeatureNorm(norm.num_features, device="meta")
    plain.eps, plain.momentum = norm.eps, norm.momentum
    plain.track_running_stats = norm.track_running_stats
    return norm if norm.affine else plain
