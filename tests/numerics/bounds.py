"""Bounds on errors, by quantity, dtype and size; measured by ``measured_errors``.

A bound is a small number of machine epsilons: 2u, with u the unit roundoff.

- **float64** is the precision of the arithmetic, whose sums are blocked: errors grow with the
  logarithm of the length d (Higham, "Accuracy and Stability of Numerical Algorithms", section
  4.2), and the factor is how many such steps follow one another.
- **float32 and below** are what results are rounded to. Geometry is kept in float32 at least, and
  rounded when used; a product of two vectors rounded once is wrong by 2u of their lengths. Where
  the work is done in the dtype itself, that is once more as much. Nothing grows with the size.
- **Collapse** is measured in float64 whatever the dtype of the features.
"""

import math

import torch

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Times 1 + log2 d.
IN_FLOAT64 = {
    "gram": 2,
    "logits": 0.5,
    "gradients": 1,
    "orthonormality": 2,
    "polar_optimality": 0.5,
    "nearest": 2,
    "collapse": 1,
}
ROUNDED = {
    "gram": 2,
    "logits": 2,
    "gradients": 2,
    "orthonormality": 1,
    "polar_optimality": 0.2,
    "nearest": 4,
}
SIZES = ((2, 1), (2, 64), (10, 9), (10, 128), (100, 99), (100, 2048), (1000, 999), (1000, 2048))
"""Classes K and features d, from the smallest that there are; K - 1 = d is the tightest."""


def bound(quantity: str, dtype: torch.dtype, dim: int) -> float:
    """The largest error that is allowed."""
    if dtype == torch.float64 or quantity not in ROUNDED:
        return IN_FLOAT64[quantity] * (1 + math.log2(dim)) * torch.finfo(torch.float64).eps
    return ROUNDED[quantity] * torch.finfo(dtype).eps
