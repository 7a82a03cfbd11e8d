"""The simplex equiangular tight frame, and the Helmert basis it needs only K - 1 numbers of."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads._precision import at_least_float32
from etf_heads._tasks import class_count


def simplex_gram(
    num_classes: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    r"""Gram matrix of the simplex ETF: ones on the diagonal, -1/(K-1) elsewhere.

    Example:
        >>> simplex_gram(3)
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]], dtype=torch.float64)
    """
    num_classes = class_count(num_classes, "num_classes")
    gram = torch.full(
        (num_classes, num_classes), -1 / (num_classes - 1), dtype=dtype, device=device
    )
    return gram.fill_diagonal_(1.0)


def simplex_etf(
    num_classes: int,
    dim: int | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    r"""Simplex equiangular tight frame: K unit vectors, every two at cosine -1/(K-1).

    Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep
    learning training" (PNAS 2020). With :math:`I` the identity and :math:`\mathbf 1` the
    all-ones vector of length K, the rows are those of

    .. math:: \sqrt{K/(K-1)}\,(I - \mathbf 1 \mathbf 1^\top / K) \quad\text{or}\quad
              \sqrt{K/(K-1)}\, E

    where E is the Helmert basis (:func:`helmert`): the first, symmetric form needs K dimensions,
    the second the fewest possible, K - 1. The Gram matrix is the same.

    Args:
        num_classes: K, at least 2.
        dim: dimensions to stand in. K when None; K - 1 gives the Helmert form; more than K pads
            the symmetric form with zeros.
        dtype: of the result.
        device: of the result.

    Returns:
        Tensor of shape (K, dim), rows are class vectors.

    Raises:
        ValueError: if K < 2 or dim < K - 1.

    Example:
        >>> W = simplex_etf(4, 3)
        >>> torch.allclose(W @ W.T, simplex_gram(4))
        True
    """
    num_classes = class_count(num_classes, "num_classes")
    dim = num_classes if dim is None else dim
    if dim < num_classes - 1:
        raise ValueError(
            f"dim={dim} is too small for a simplex ETF of {num_classes} classes: "
            f"{num_classes - 1} needed"
        )
    if dim == num_classes - 1:
        return helmert(num_classes, dtype=dtype, device=device) * simplex_scale(num_classes)
    centred = torch.eye(num_classes, dtype=dtype, device=device) - 1 / num_classes
    return F.pad(centred * simplex_scale(num_classes), (0, dim - num_classes))


def simplex_scale(num_classes: int) -> float:
    r"""The factor :math:`\sqrt{K/(K-1)}` that gives the rows of a simplex ETF unit norm."""
    return math.sqrt(num_classes / (num_classes - 1))


def helmert(
    num_classes: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    r"""Helmert basis: K - 1 orthonormal columns, all orthogonal to the all-ones vector.

    Column j is :math:`(1, \dots, 1, -j, 0, \dots, 0) / \sqrt{j (j+1)}` with j ones, so that
    :math:`E^\top E = I` and :math:`E E^\top = I - \mathbf 1 \mathbf 1^\top / K`.

    Args:
        num_classes: K, at least 2.
        dtype: of the result.
        device: of the result.

    Returns:
        Tensor E of shape (K, K - 1).

    Example:
        >>> helmert(3)
        tensor([[ 0.7071,  0.4082],
                [-0.7071,  0.4082],
                [ 0.0000, -0.8165]], dtype=torch.float64)
    """
    num_classes = class_count(num_classes, "num_classes")
    j = torch.arange(1, num_classes, dtype=dtype, device=device)
    ones = torch.ones(num_classes, num_classes - 1, dtype=dtype, device=device)
    return (ones.triu() - torch.diag(j, diagonal=-1)[:, :-1]) * torch.rsqrt(j * (j + 1))


def helmert_expand(z: Tensor) -> Tensor:
    r"""Product E z with the Helmert basis in O(K), no matrix made: (..., K - 1) -> (..., K).

    Half-precision input is summed in float32 and rounded once.

    Example:
        >>> z = torch.randn(2, 4, dtype=torch.float64)
        >>> torch.allclose(helmert_expand(z), z @ helmert(5).T)
        True
    """
    work = z.to(at_least_float32(z.dtype))
    j, weights = _helmert_weights(work)
    scaled = work * weights
    suffix_sums = scaled.flip(-1).cumsum(-1).flip(-1)
    return (F.pad(suffix_sums, (0, 1)) - F.pad(j * scaled, (1, 0))).to(z.dtype)


def helmert_contract(y: Tensor) -> Tensor:
    r"""Product Eᵀ y with the Helmert basis in O(K), no matrix made: (..., K) -> (..., K - 1).

    Half-precision input is summed in float32 and rounded once.

    Example:
        >>> y = torch.randn(2, 5, dtype=torch.float64)
        >>> torch.allclose(helmert_contract(y), y @ helmert(5))
        True
    """
    work = y.to(at_least_float32(y.dtype))
    j, weights = _helmert_weights(work[..., 1:])
    return ((work.cumsum(-1)[..., :-1] - j * work[..., 1:]) * weights).to(y.dtype)


def _helmert_weights(like: Tensor) -> tuple[Tensor, Tensor]:
    j = torch.arange(1, like.shape[-1] + 1, dtype=like.dtype, device=like.device)
    return j, torch.rsqrt(j * (j + 1))
