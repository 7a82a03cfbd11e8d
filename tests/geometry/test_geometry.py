"""Frames and bases against NumPy and SciPy, to 1e-12."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.geometry import (
    compound_etf,
    dct,
    hadamard,
    helmert,
    helmert_contract,
    helmert_expand,
    simplex_etf,
    simplex_gram,
)

TOLERANCE = 1e-12
class_counts = st.integers(2, 40)


def close(a, b, tolerance=TOLERANCE):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance)


@given(class_counts, st.integers(-1, 20))
def test_simplex_etf_has_the_gram_of_the_definition(num_classes, extra):
    frame = simplex_etf(num_classes, num_classes + extra)
    expected = np.full((num_classes, num_classes), -1 / (num_classes - 1))
    np.fill_diagonal(expected, 1)
    assert frame.shape == (num_classes, num_classes + extra)
    assert frame.dtype == torch.float64
    close(frame @ frame.T, expected)
    close(simplex_gram(num_classes), expected)
    close(frame.sum(0), np.zeros(num_classes + extra))


def test_simplex_etf_in_k_dimensions_is_the_symmetric_form():
    k = 6
    close(simplex_etf(k), math.sqrt(k / (k - 1)) * (np.eye(k) - np.ones((k, k)) / k))


@given(class_counts)
def test_helmert_equals_scipys(num_classes):
    # SciPy's rows are (1, ..., 1, -j, 0, ...) / norm as well: the same basis, transposed.
    close(helmert(num_classes), scipy.linalg.helmert(num_classes).T)


@given(class_counts, st.lists(st.integers(0, 3), max_size=2), st.integers(0, 99))
def test_helmert_products_equal_the_dense_ones(num_classes, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.from_numpy(scipy.linalg.helmert(num_classes).T.copy())
    z = torch.randn(*batch, num_classes - 1, generator=generator, dtype=torch.float64)
    y = torch.randn(*batch, num_classes, generator=generator, dtype=torch.float64)
    close(helmert_expand(z), z @ basis.T)
    close(helmert_contract(y), y @ basis)


@pytest.mark.parametrize("product", [helmert_expand, helmert_contract])
def test_helmert_products_pass_gradcheck(product):
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(product, (z,))
    assert torch.autograd.gradgradcheck(product, (z,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("num_classes", [10, 1000])
def test_helmert_products_round_only_once(dtype, num_classes):
    z = torch.randn(4, num_classes - 1, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = z.double() @ helmert(num_classes).T
    error = (helmert_expand(z).double() - exact).abs().max()
    assert helmert_expand(z).dtype == dtype
    assert error <= 4 * torch.finfo(dtype).eps * exact.abs().max()


@given(st.lists(class_counts, min_size=1, max_size=5), st.integers(0, 30))
def test_compound_etf_is_an_etf_a_task_and_orthogonal_across(tasks, extra):
    dim = sum(tasks) - len(tasks) + extra
    frame = compound_etf(tasks, dim)
    expected = scipy.linalg.block_diag(*[np.asarray(simplex_gram(k)) for k in tasks])
    assert frame.shape == (sum(tasks), dim)
    close(frame @ frame.T, expected)


@given(st.integers(0, 7))
def test_hadamard_equals_scipys(log_size):
    size = 2**log_size
    close(hadamard(size), scipy.linalg.hadamard(size) / math.sqrt(size))


@given(st.integers(1, 300))
def test_dct_equals_scipys(size):
    close(dct(size), scipy.fft.dct(np.eye(size), axis=0, norm="ortho").T)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simplex_etf(1), "num_classes=1: a task needs at least 2 classes"),
        (lambda: simplex_etf(2.5), "num_classes must be a positive integer, got 2.5"),
        (lambda: simplex_etf(True), "num_classes must be a positive integer, got True"),
        (lambda: simplex_etf(10, 8), "dim=8 is too small for a simplex ETF of 10 classes: 9 need"),
        (lambda: helmert(0), "num_classes must be a positive integer, got 0"),
        (lambda: hadamard(12), "size=12 is not a power of two"),
        (lambda: dct(0), "size must be a positive integer, got 0"),
        (
            lambda: compound_etf([10, 10], 17),
            r"dim=17 is too small for orthogonal simplex ETFs of \[10, 10\] classes: 18 needed",
        ),
    ],
)
def test_bad_input_gets_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
