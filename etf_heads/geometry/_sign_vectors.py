"""Sign vectors of quadratic forms: each makes an orthonormal basis of a Hadamard matrix."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from etf_heads._tasks import positive_int
from etf_heads.geometry._binary_field import LARGEST_DEGREE, BinaryField


def kerdock_signs(dim: int, indices: Tensor | None = None) -> Tensor:
    r"""Sign vectors of the Kerdock code: d/2 bases, any two at :math:`|\cos| = 1/\sqrt d`.

    Kerdock, "A class of low-rate nonlinear binary codes" (1972), as real mutually unbiased bases
    (Calderbank, Cameron, Kantor and Seidel 1997). With the Hadamard matrix H of
    :func:`~etf_heads.geometry.hadamard` and a sign vector q, the columns of :math:`\mathrm{diag}
    (q)\, H` are an orthonormal basis. The product of two different sign vectors is bent: its
    Hadamard transform has one modulus, so all cosines between two bases, and between each of them
    and the identity, are :math:`\pm 1/\sqrt d`.

    For :math:`d = 2^{n+1}`, n odd, coordinate 2x + e belongs to x in GF(2^n) and e in {0, 1}, and
    the vector of s in GF(2^n) is :math:`(-1)^{Q(sx) + e \operatorname{Tr}(sx)}` with
    :math:`Q(u) = \operatorname{Tr} \sum_{i=1}^{(n-1)/2} u^{2^i+1}`.

    Args:
        dim: d, a power of four from 4 to 65,536.
        indices: which vectors s, of any shape, below d/2; all in order when None.

    Returns:
        int8 tensor of shape (*indices, d) on the CPU, entries ±1.

    Raises:
        ValueError: if d is not such a power.

    Example:
        >>> kerdock_signs(4)
        tensor([[ 1,  1,  1,  1],
                [ 1,  1,  1, -1]], dtype=torch.int8)
    """
    return _signs(_kerdock_bits(_two_coordinates(dim, "a Kerdock code"), indices))


def delsarte_goethals_signs(dim: int, indices: Tensor | None = None) -> Tensor:
    r"""Sign vectors of a Delsarte-Goethals code: (d/2)² bases, any two at |cos| of at most 2/√d.

    Delsarte and Goethals, "Alternating bilinear forms over GF(q)" (1975). Vector s + a d/2 is
    that of s in :func:`kerdock_signs` times :math:`(-1)^{\operatorname{Tr}(a x^3)}`, so the first
    d/2 are the Kerdock code.

    Args:
        dim: d, a power of four from 16 to 65,536.
        indices: which vectors, of any shape, below (d/2)²; all in order when None.

    Returns:
        int8 tensor of shape (*indices, d) on the CPU, entries ±1.

    Raises:
        ValueError: if d is not such a power.

    Example:
        >>> signs = delsarte_goethals_signs(16, torch.tensor([3, 3 + 8]))
        >>> torch.equal(signs[0], kerdock_signs(16)[3])
        True
    """
    degree = _two_coordinates(dim, "a Delsarte-Goethals code", least=3)
    half = 2**degree
    indices = torch.arange(half * half, device="cpu") if indices is None else indices.cpu()
    cubes = _cubic_bits(degree, indices // half).repeat_interleave(2, dim=-1)
    return _signs(_kerdock_bits(degree, indices % half) ^ cubes)


def gold_signs(dim: int, indices: Tensor | None = None) -> Tensor:
    r"""Sign vectors of Gold's forms: d bases, any two at cosines of 0 and :math:`\pm\sqrt{2/d}`.

    Gold, "Maximal recursive sequences with 3-valued recursive cross-correlation functions" (1968).
    For :math:`d = 2^n`, n odd, the vector of s in GF(2^n) is
    :math:`(-1)^{\operatorname{Tr}(s x^3)}`; with the Hadamard matrix it makes a basis as in
    :func:`kerdock_signs`.

    Args:
        dim: d, twice a power of four, from 8 to 32,768.
        indices: which vectors s, of any shape, below d; all in order when None.

    Returns:
        int8 tensor of shape (*indices, d) on the CPU, entries ±1.

    Raises:
        ValueError: if d is not such a number.

    Example:
        >>> gold_signs(8).shape
        torch.Size([8, 8])
    """
    degree = positive_int(dim, "dim").bit_length() - 1
    if dim != 2**degree or degree % 2 == 0 or not 3 <= degree <= LARGEST_DEGREE:
        raise ValueError(
            f"dim={dim}: Gold's forms need twice a power of four from 8 to "
            f"{2**LARGEST_DEGREE:,}; for powers of four there are Kerdock codes"
        )
    return _signs(_cubic_bits(degree, indices))


def _two_coordinates(dim: int, code: str, least: int = 1) -> int:
    """The n of d = 2^(n+1), checked."""
    degree = positive_int(dim, "dim").bit_length() - 2
    if dim != 2 ** (degree + 1) or degree % 2 == 0 or not least <= degree <= LARGEST_DEGREE:
        raise ValueError(
            f"dim={dim}: {code} needs a power of four from {2 ** (least + 1)} to "
            f"{2 ** (LARGEST_DEGREE + 1):,}; for twice a power of four there are Gold's forms"
        )
    return degree


def _kerdock_bits(degree: int, indices: Tensor | None) -> Tensor:
    field = _field(degree)
    indices = field.elements if indices is None else indices.cpu()
    products = field.product(indices.unsqueeze(-1), field.elements)
    quadratic = torch.zeros_like(field.elements)
    for i in range(1, (degree - 1) // 2 + 1):
        quadratic ^= field.trace(field.power(field.elements, 2**i + 1))
    both = torch.stack([quadratic, quadratic ^ field.trace(field.elements)], dim=-1).to(torch.int8)
    return both[products].flatten(-2)


def _cubic_bits(degree: int, indices: Tensor | None) -> Tensor:
    field = _field(degree)
    indices = field.elements if indices is None else indices.cpu()
    traces = field.trace(field.elements).to(torch.int8)
    return traces[field.product(indices.unsqueeze(-1), field.power(field.elements, 3))]


def _signs(bits: Tensor) -> Tensor:
    return 1 - 2 * bits


@lru_cache(maxsize=8)
def _field(degree: int) -> BinaryField:
    return BinaryField(degree)
