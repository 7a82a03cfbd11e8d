"""The largest errors by dtype, over sizes from one feature to 1000 classes, are those allowed."""

import numpy as np
import pytest
import torch

from etf_heads import ETFHead
from tests.cases import NAMED
from tests.numerics import measured_errors
from tests.numerics.bounds import DTYPES, IN_FLOAT64, SIZES, bound

OF_HEADS = ("gram", "logits", "gradients")
SMALL = tuple(size for size in SIZES if size[0] < 1000)

OF_MATRICES = tuple(name for name in IN_FLOAT64 if name not in OF_HEADS)

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _an_oracle_better_than_float64():
    if np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:
        pytest.skip("this machine has no extended precision to measure float64 with")


def check(quantity, dtype, *options, sizes=SIZES):
    """Measure at all sizes."""
    for classes, dim in sizes:
        error = getattr(measured_errors, quantity)(classes, dim, dtype, *options)
        allowed = bound(quantity, dtype, dim)
        assert error <= allowed, f"{quantity}, {dtype}, K={classes}, d={dim}"


@pytest.mark.parametrize("quantity", OF_HEADS)  # of the same heads, one after the other
@every_dtype
@pytest.mark.parametrize("orientation", NAMED)
def test_errors_of_heads(quantity, orientation, dtype):
    # A thousand vectors in extended precision take a while: in half precision of one orientation.
    few = dtype.itemsize == 2 and orientation != "tiled"
    check(quantity, dtype, orientation, sizes=SMALL if few else SIZES)


@pytest.mark.parametrize("quantity", OF_MATRICES)
@every_dtype
def test_errors_of_geometry_and_measures(quantity, dtype):
    # Decompositions take a while, and those of half precision are float32's.
    check(quantity, dtype, sizes=SMALL + SIZES[-1:] if dtype.itemsize > 2 else SMALL)


@every_dtype
def test_an_error_of_a_few_roundings_is_found(dtype, monkeypatch):
    """The bounds are no wider than that."""
    weight = ETFHead.weight.fget
    few = 1 + 16 * (1 + np.log2(2048) * (dtype == torch.float64)) * torch.finfo(dtype).eps
    monkeypatch.setattr(ETFHead, "weight", property(lambda head: weight(head) * few))
    with pytest.raises(AssertionError, match="K="):
        check("gram", dtype, "tiled")
