"""Sign vectors, bounds and optimised codes, against definitions, in integers where they are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.geometry import (
    delsarte_goethals_signs,
    gold_signs,
    hadamard,
    kerdock_signs,
    levenshtein_bound,
    one_vs_rest_distance,
    rankin_bound,
    softmax_code,
    welch_bound,
)
from etf_heads.geometry._binary_field import LARGEST_DEGREE, BinaryField


def integer_transform(signs):
    """Products with the integer Hadamard matrix by butterflies: exact, nothing of the library."""
    values, half = signs.to(torch.int32), 1
    while half < values.shape[-1]:
        pairs = values.unflatten(-1, (-1, 2, half))
        sums = [pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]]
        values, half = torch.stack(sums, dim=-2).flatten(-3), 2 * half
    return values


def moduli(signs, first):
    """All |inner products| between the basis of one sign vector and those after it."""
    return integer_transform(signs[first] * signs[first + 1 :]).abs().unique().tolist()


@pytest.mark.parametrize("degree", range(1, LARGEST_DEGREE + 1))
def test_powers_of_alpha_are_all_elements_but_zero(degree):
    field = BinaryField(degree)
    assert torch.equal(field._powers.sort().values, field.elements[1:])


@given(degree=st.integers(1, 8), data=st.data())
def test_fields_obey_their_axioms(degree, data):
    field = BinaryField(degree)
    element = st.integers(0, field.order - 1)
    a, b, c = (torch.tensor(data.draw(element)) for _ in range(3))
    assert field.product(a, b ^ c) == field.product(a, b) ^ field.product(a, c)
    assert field.product(a, field.product(b, c)) == field.product(field.product(a, b), c)
    assert field.product(a, torch.tensor(1)) == a
    assert field.power(a, 3) == field.product(a, field.product(a, a))
    assert field.trace(a ^ b) == field.trace(a) ^ field.trace(b)
    assert field.trace(field.power(a, 2)) == field.trace(a) in (0, 1)


@pytest.mark.parametrize("dim", [4, 16, 64, 256])
def test_every_product_of_two_kerdock_vectors_is_bent(dim):
    signs = kerdock_signs(dim)
    assert signs.shape == (dim // 2, dim)
    assert signs.dtype == torch.int8
    assert (signs[0] == 1).all()
    for first in range(dim // 2 - 1):
        assert moduli(signs, first) == [math.isqrt(dim)]


def test_kerdock_vectors_of_1024_dimensions_are_bent_in_a_sample():
    signs = kerdock_signs(1024)
    for first in range(0, 511, 16):
        assert moduli(signs, first) == [32]


@pytest.mark.parametrize("dim", [8, 32, 128])
def test_products_of_gold_vectors_have_two_moduli(dim):
    signs = gold_signs(dim)
    assert signs.shape == (dim, dim)
    for first in range(0, dim - 1, max(1, dim // 32)):
        assert moduli(signs, first) == [0, math.isqrt(2 * dim)]


@pytest.mark.parametrize(("dim", "every"), [(16, 1), (64, 32), (256, 4096)])
def test_products_of_delsarte_goethals_vectors_are_bounded(dim, every):
    count, root = dim**2 // 4, math.isqrt(dim)
    assert torch.equal(delsarte_goethals_signs(dim, torch.arange(dim // 2)), kerdock_signs(dim))
    signs = delsarte_goethals_signs(dim)
    assert signs.shape == (count, dim)
    for first in range(0, count - 1, every):
        assert set(moduli(signs, first)) <= {0, root, 2 * root}


def test_the_integer_transform_is_that_of_the_hadamard_matrix():
    signs = kerdock_signs(16)
    dense = signs.double() @ (4 * hadamard(16))
    assert torch.equal(integer_transform(signs).double(), dense.round())


@pytest.mark.parametrize("make", [kerdock_signs, gold_signs, delsarte_goethals_signs])
def test_single_vectors_are_those_of_the_whole(make):
    dim = 32 if make is gold_signs else 16
    indices = torch.tensor([[3, 0], [5, 3]])
    assert torch.equal(make(dim, indices), make(dim)[indices])


@pytest.mark.parametrize(
    ("make", "dim", "message"),
    [
        (kerdock_signs, 32, "dim=32: a Kerdock code needs a power of four"),
        (kerdock_signs, 24, "dim=24"),
        (kerdock_signs, 2, "dim=2"),
        (kerdock_signs, 2**18, "to 65,536"),
        (gold_signs, 64, "dim=64: Gold's forms need twice a power of four"),
        (gold_signs, 2, "dim=2"),
        (delsarte_goethals_signs, 4, "dim=4: a Delsarte-Goethals code needs a power of four from"),
        (kerdock_signs, 0, "dim must be a positive integer"),
    ],
)
def test_sizes_without_such_signs_are_refused(make, dim, message):
    with pytest.raises(ValueError, match=message):
        make(dim)


@pytest.mark.parametrize(
    ("classes", "dim", "cosine"),
    [
        (12, 3, 1 / math.sqrt(5)),  # the icosahedron
        (240, 8, 1 / 2),  # roots of E8
        (196560, 24, 1 / 2),  # minimal vectors of the Leech lattice
        (7, 2, math.cos(2 * math.pi / 7)),
        (8, 4, 0.0),
        (5, 4, -1 / 4),
        (27, 6, 1 / 4),  # the Schläfli configuration
        (552, 23, 1 / 5),  # equiangular lines, both ends
    ],
)
def test_levenshtein_bound_is_reached_by_sharp_codes(classes, dim, cosine):
    assert levenshtein_bound(classes, dim) == pytest.approx(cosine, abs=1e-12)


@pytest.mark.parametrize(("classes", "dim", "value"), [(4000, 64, 0.1225), (65000, 256, 0.0622)])
def test_kerdock_codes_come_near_the_bound(classes, dim, value):
    assert levenshtein_bound(classes, dim) == pytest.approx(value, abs=5e-5)
    assert levenshtein_bound(classes, dim) <= 1 / math.sqrt(dim)


@given(dim=st.integers(2, 300), classes=st.integers(2, 30000))
def test_levenshtein_bound_grows_with_classes_and_holds_for_known_codes(dim, classes):
    bound = levenshtein_bound(classes, dim)
    assert rankin_bound(classes, dim) <= bound < 1
    assert bound <= levenshtein_bound(classes + 1, dim) + 1e-12
    if dim in (4, 16, 64, 256) and classes <= dim * (dim + 2):
        assert bound <= 1 / math.sqrt(dim) + 1e-12


def test_welch_bound_is_reached_by_simplices():
    assert welch_bound(5, 4) == pytest.approx(1 / 4)
    assert welch_bound(4, 4) == 0


def kerdock_frame(dim, classes):
    """The first bases of a Kerdock code with both signs, written out."""
    bases = [torch.eye(dim, dtype=torch.float64)]
    bases += [hadamard(dim) * signs for signs in kerdock_signs(dim)]
    pairs = torch.cat([torch.stack([basis, -basis], dim=1).flatten(0, 1) for basis in bases])
    return pairs[:classes]


@pytest.mark.parametrize(("classes", "dim", "distance"), [(96, 16, 0.75), (1000, 64, 0.875)])
def test_one_vs_rest_distance_of_a_kerdock_code(classes, dim, distance):
    frame = kerdock_frame(dim, classes)
    rows = [0, 2 * dim, classes - 1]
    assert one_vs_rest_distance(frame, rows) == pytest.approx(distance, abs=1e-9)


def largest_cosine(frame):
    return float((frame @ frame.T).fill_diagonal_(-1).max())


@pytest.mark.parametrize(
    ("classes", "dim", "cosine"),
    [
        (4, 3, -1 / 3),
        (5, 3, 0.0),  # d + 2 to 2d: orthogonal simplices
        (10, 8, 0.0),
        (20, 10, 0.0),
        (5, 2, math.cos(2 * math.pi / 5)),
        (7, 3, 0.210138),  # Tammes' problem, solved by Schütte and van der Waerden (1951)
        (9, 3, 1 / 3),
        (12, 3, 1 / math.sqrt(5)),
        (10, 4, 1 / 6),  # conjectured best; Sloane's tables
    ],
)
def test_softmax_codes_are_the_best_known(classes, dim, cosine):
    code = softmax_code(classes, dim)
    assert code.shape == (classes, dim)
    torch.testing.assert_close(code.norm(dim=1), torch.ones(classes, dtype=torch.float64))
    assert largest_cosine(code) == pytest.approx(cosine, abs=2e-3)
    assert largest_cosine(code) >= levenshtein_bound(classes, dim) - 1e-6


def test_a_softmax_code_is_the_same_every_time():
    assert torch.equal(softmax_code(5, 3), softmax_code(5, 3))


def test_a_softmax_code_beats_random_vectors_and_is_near_a_kerdock_code():
    code = softmax_code(100, 16, steps=30)
    assert largest_cosine(code) < 0.25  # a Kerdock code's
    assert one_vs_rest_distance(code, range(5)) > 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, 1), "dim=1 has two unit vectors"), ((5000, 64), "KerdockCode"), ((1, 4), "at least 2")],
)
def test_softmax_codes_out_of_reach_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        softmax_code(*arguments)
    with pytest.raises(ValueError, match="dim=1"):
        levenshtein_bound(5, 1)
