"""The laws of every orientation: orthonormal columns, and products equal to the dense ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.orientation import (
    KroneckerOrientation,
    MatrixOrientation,
    RandomOrientation,
    TiledOrientation,
    make_orientation,
)
from tests.cases import ORIENTATIONS, orthonormal

sizes = st.integers(1, 150).flatmap(lambda d: st.tuples(st.just(d), st.integers(1, d)))


@pytest.mark.parametrize("name", ORIENTATIONS)
@given(size=sizes, batch=st.lists(st.integers(0, 3), max_size=2))
def test_columns_are_orthonormal_and_products_equal_the_dense_ones(name, size, batch):
    in_features, columns = size
    orientation = ORIENTATIONS[name](in_features, columns)
    basis = orientation.matrix()
    assert basis.shape == size
    exact = {"rtol": 0, "atol": 1e-12}
    eye = torch.eye(columns, dtype=torch.float64)
    torch.testing.assert_close(basis.T @ basis, eye, **exact)
    h = torch.randn(*batch, in_features, dtype=torch.float64)
    z = torch.randn(*batch, columns, dtype=torch.float64)
    torch.testing.assert_close(orientation.project(h), h @ basis, **exact)
    torch.testing.assert_close(orientation.lift(z), z @ basis.T, **exact)


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("size", [(7, 7), (12, 5), (16, 15), (2, 1)])
def test_gradients_are_right(name, size):
    orientation = ORIENTATIONS[name](*size)
    h = torch.randn(2, size[0], dtype=torch.float64, requires_grad=True)
    z = torch.randn(2, size[1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(orientation.project, (h,))
    assert torch.autograd.gradcheck(orientation.lift, (z,))


@pytest.mark.parametrize("name", ["canonical", "tiled", "hadamard"])
def test_structured_orientations_hold_no_tensor(name):
    orientation = make_orientation(name, 2048, 1000)
    assert not list(orientation.buffers())
    assert not list(orientation.parameters())


@given(st.integers(2, 5000))
def test_kronecker_factors_stay_near_the_root_for_every_size(in_features):
    orientation = KroneckerOrientation(in_features, 1)
    p, q = orientation._p, orientation._q
    assert 0 <= in_features - p * q < in_features**0.5
    assert p * p <= 9 * in_features  # so O(d (p + q)) is O(d^1.5)


@given(size=sizes)
def test_only_the_last_kronecker_column_sees_the_mean_feature(size):
    in_features, columns = size
    basis = KroneckerOrientation(in_features, columns).matrix()
    transformed = in_features - in_features % KroneckerOrientation(in_features, 1)._q
    mean = torch.zeros(in_features, dtype=torch.float64)
    mean[:transformed] = 1
    seen = mean @ basis[:, : min(columns, in_features - 1)]
    torch.testing.assert_close(seen, torch.zeros_like(seen), rtol=0, atol=1e-11)


def test_tiled_uses_every_feature_once():
    basis = TiledOrientation(23, 5).matrix()
    assert (basis != 0).sum(dim=1).tolist() == [1] * 23


def test_random_orientation_depends_on_its_seed_only():
    first, again = RandomOrientation(20, 6, seed=5), RandomOrientation(20, 6, seed=5)
    other = RandomOrientation(20, 6, seed=6)
    torch.manual_seed(0)
    assert torch.equal(first.matrix(), again.matrix())
    assert not torch.allclose(first.matrix(), other.matrix(), atol=0.1)


def test_random_orientation_is_rebuilt_exactly_at_a_higher_precision():
    exact = RandomOrientation(20, 6, dtype=torch.float64).matrix()
    for path in (torch.float32, torch.bfloat16):
        basis = RandomOrientation(20, 6).to(path).to(torch.float64).matrix()
        assert torch.equal(basis, exact)


@pytest.mark.parametrize(
    "make", [RandomOrientation, lambda d, n: MatrixOrientation(orthonormal(d, n))]
)
def test_stored_matrices_are_never_rounded_to_half_precision(make):
    orientation = make(20, 6)
    before = orientation.matrix()
    orientation.to(torch.bfloat16)
    assert orientation.basis.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(orientation.matrix(), before, rtol=0, atol=1e-7)


def test_a_given_matrix_is_in_the_state_dict_and_no_other_is():
    given_ = MatrixOrientation(orthonormal(8, 3))
    assert list(given_.state_dict()) == ["basis"]
    assert not RandomOrientation(8, 3).state_dict()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TiledOrientation(3, 4), "4 orthonormal columns do not fit into in_features=3"),
        (lambda: TiledOrientation(0, 4), "in_features must be a positive integer, got 0"),
        (lambda: make_orientation("best", 8, 2), "unknown orientation 'best': choose from canon"),
        (lambda: make_orientation("random:x", 8, 2), "unknown orientation 'random:x'"),
        (lambda: make_orientation(3, 8, 2), "unknown orientation 3"),
        (lambda: make_orientation(TiledOrientation(9, 2), 8, 2), "made for 9 features, but in_f"),
        (lambda: MatrixOrientation(torch.ones(4, 2)), "must have orthonormal columns: .*qr"),
        (lambda: MatrixOrientation(torch.full((4, 2), torch.nan)), "must have orthonormal column"),
        (lambda: MatrixOrientation(torch.ones(4)), r"of shape \(in_features, columns\), got"),
        (lambda: MatrixOrientation(torch.eye(4, dtype=torch.int64)), "floating-point matrix"),
        (lambda: MatrixOrientation(torch.eye(4)[:2]), "4 orthonormal columns do not fit"),
    ],
)
def test_bad_input_gets_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
