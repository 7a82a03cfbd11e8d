"""Arithmetic of the finite fields GF(2^n), exact in integers."""

from __future__ import annotations

import torch
from torch import Tensor

# Primitive polynomials of degree 1, 2, ...: bit i is the coefficient of x^i.
_PRIMITIVE = (3, 7, 11, 19, 37, 67, 131, 285, 529, 1033, 2053, 4179, 8219, 17475, 32771)
LARGEST_DEGREE = len(_PRIMITIVE)


class BinaryField:
    r"""GF(2^n): elements are the integers below 2^n, addition is their exclusive or.

    The bits of an element are its coefficients in powers of a primitive element
    :math:`\alpha` = 2, whose powers are all elements but 0. Products are sums of logarithms.

    Args:
        degree: n, from 1 to 15.

    Example:
        >>> field = BinaryField(3)
        >>> field.product(torch.tensor([3, 5]), torch.tensor([6, 0]))
        tensor([1, 0])
    """

    def __init__(self, degree: int) -> None:
        self.degree = degree
        self.order = 2**degree
        powers, element = [], 1
        for _ in range(self.order - 1):
            powers.append(element)
            element <<= 1
            if element & self.order:
                element ^= _PRIMITIVE[degree - 1]
        self._powers = torch.tensor(powers, device="cpu")
        self._logarithms = torch.zeros(self.order, dtype=torch.int64, device="cpu")
        self._logarithms[self._powers] = torch.arange(self.order - 1, device="cpu")

    @property
    def elements(self) -> Tensor:
        """All of them in order, shape (2^n,)."""
        return torch.arange(self.order, device="cpu")

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Products of elements, broadcast."""
        logarithm = (self._logarithms[a] + self._logarithms[b]) % (self.order - 1)
        return self._powers[logarithm] * ((a != 0) & (b != 0))

    def power(self, a: Tensor, exponent: int) -> Tensor:
        """Powers of elements with an exponent of at least 1."""
        return self._powers[self._logarithms[a] * exponent % (self.order - 1)] * (a != 0)

    def trace(self, a: Tensor) -> Tensor:
        r"""Absolute trace :math:`\sum_{i<n} a^{2^i}` of elements: 0 or 1."""
        total = torch.zeros_like(a)
        for i in range(self.degree):
            total ^= self.power(a, 2**i)
        return total
