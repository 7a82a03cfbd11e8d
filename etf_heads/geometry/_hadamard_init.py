"""Two layers whose gradient flow keeps its singular vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._tasks import positive_int
from etf_heads.geometry._transforms import hadamard


def hadamard_init(
    num_classes: int, dim: int, singular_values: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""Weights of two linear layers from which training never turns the singular vectors.

    With Q the orthogonal Sylvester-Hadamard matrix, V the first K columns of the identity of d
    dimensions, and s the singular values of the logits,

    .. math:: W_2 = Q\, \mathrm{diag}(\sqrt s)\, V^\top, \qquad
              W_1 = V\, \mathrm{diag}(\sqrt s)\, Q^\top

    Under gradient flow of the mean cross-entropy of one input :math:`e_k` a class, the logits stay
    :math:`Q\, \mathrm{diag}(s)\, Q^\top`; how s moves is
    :func:`etf_heads.theory.spectral_flow`. Random orthogonal matrices do not have this property,
    nor do Hadamard matrices of sizes that are no power of two (Paley's of size 12).

    Args:
        num_classes: K, a power of two.
        dim: d >= K, the width of the hidden layer.
        singular_values: s, one number or shape (K,), none negative.

    Returns:
        W_2 of shape (K, d) and W_1 of shape (d, K), float64.

    Raises:
        ValueError: if K is no power of two, d < K, or singular values are not possible.

    Example:
        >>> second, first = hadamard_init(4, 6, 2.0)
        >>> torch.allclose(second @ first, 2 * torch.eye(4, dtype=torch.float64))
        True
    """
    K = positive_int(num_classes, "num_classes")
    if K & (K - 1):
        raise ValueError(
            f"num_classes={num_classes} is not a power of two, and other Hadamard matrices do not "
            "keep their singular vectors"
        )
    if positive_int(dim, "dim") < K:
        raise ValueError(f"dim={dim} is too small for {K} classes: {K} needed")
    values = torch.as_tensor(singular_values, dtype=torch.float64)
    if values.shape not in {(), (K,)} or not (values.isfinite() & (values >= 0)).all():
        raise ValueError(
            f"singular_values must be one number, or {K}, finite and none negative; got "
            f"{singular_values!r}"
        )
    half = torch.zeros(K, dim, dtype=torch.float64)
    half[:, :K] = hadamard(K) * values.sqrt()
    return half, half.T.clone()
