"""Codes of many bases: cosines, rows, log-sum-exp and search, against their dense matrix."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.codes import (
    CrossPolytopeCode,
    DelsarteGoethalsCode,
    GoldCode,
    KerdockCode,
    SimplexCode,
    spherical_code,
)
from etf_heads.codes import _tiles as tiles_module
from etf_heads.codes._topk import Search, basis_limits
from etf_heads.geometry import hadamard, hadamard_rows, kerdock_signs
from etf_heads.heads import FixedHead

CODES = [
    KerdockCode(2, 4),
    KerdockCode(24, 4),
    KerdockCode(287, 16),
    KerdockCode(33, 16),
    KerdockCode({"a": 7, "b": 3, "c": 100}, 16),
    KerdockCode(1000, 64),
    GoldCode(144, 8),
    GoldCode([5, 30], 8),
    GoldCode(2111, 32),
    DelsarteGoethalsCode(2080, 16),
    CrossPolytopeCode(9),
    CrossPolytopeCode([5, 4, 7], 11),
]
each_code = pytest.mark.parametrize("code", CODES, ids=repr)
EXACT = {"rtol": 0, "atol": 1e-12}


def coordinates(code, samples=7, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(samples, code.columns, generator=generator, dtype=torch.float64)


def test_a_kerdock_code_written_out():
    dense = [torch.eye(16, dtype=torch.float64)]
    dense += [hadamard(16) * signs for signs in kerdock_signs(16)]
    rows = torch.cat(dense)
    expected = torch.stack([rows, -rows], dim=1).flatten(0, 1)
    torch.testing.assert_close(KerdockCode(288, 16).matrix(), expected, **EXACT)


@each_code
def test_no_cosine_is_above_the_coherence(code):
    matrix = code.matrix()
    torch.testing.assert_close(matrix.norm(dim=1), torch.ones(code.rows, dtype=torch.float64))
    cosines = (matrix @ matrix.T).fill_diagonal_(-1)
    assert cosines.max() <= code.coherence + 1e-12
    if code.bases > 1:
        assert cosines.max() == pytest.approx(code.coherence)
    for first in code.tasks.slices:
        for second in code.tasks.slices:
            if first != second:  # classes of two tasks never oppose each other
                assert cosines[first, second].abs().max() <= code.coherence + 1e-12


@each_code
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rows_and_products_are_those_of_the_matrix(code, dtype):
    matrix, indices = code.matrix(), torch.randint(code.rows, (2, 9))
    rows = code.vectors(indices, dtype=dtype)
    assert rows.dtype == dtype
    bound = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(rows.double(), matrix[indices], rtol=0, atol=bound)
    z = coordinates(code).requires_grad_()
    ours, dense = code(z), z @ matrix.T
    torch.testing.assert_close(ours, dense, **EXACT)
    upstream = torch.randn_like(dense)
    for got, expected in zip(
        torch.autograd.grad(ours, z, upstream), torch.autograd.grad(dense, z, upstream), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


@each_code
@pytest.mark.parametrize("scale", [0.0, 1.0, 3000.0])  # exp of the last overflows
@pytest.mark.parametrize("tile", [1, 2**18])
def test_logsumexp_and_its_gradient_are_those_of_the_scores(code, scale, tile, monkeypatch):
    monkeypatch.setattr(tiles_module, "_CPU_TILE", tile)
    z = coordinates(code, scale=scale).requires_grad_()
    for task, rows in enumerate(code.tasks.slices):
        ours, dense = code.logsumexp(z, task), (z @ code.matrix().T)[:, rows].logsumexp(1)
        torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(ours)
        (got,) = torch.autograd.grad(ours, z, upstream)
        (expected,) = torch.autograd.grad(dense, z, upstream)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_logsumexp_in_low_precision(dtype, scale):
    code = KerdockCode(1000, 64)
    z = coordinates(code, 32, scale).to(dtype).requires_grad_()
    exact = (z.detach().double() @ code.matrix().T).requires_grad_()
    expected = exact.logsumexp(1)
    ours = code.logsumexp(z)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-6)
    (got,) = torch.autograd.grad(ours.sum(), z)
    (scores,) = torch.autograd.grad(expected.sum(), exact)
    assert got.dtype == dtype
    bound = 2 * torch.finfo(dtype).eps + 1e-6 * scale
    torch.testing.assert_close(got.double(), scores @ code.matrix(), rtol=0, atol=bound)


def test_logsumexp_refuses_to_differentiate_twice_and_keeps_nan():
    code = KerdockCode(100, 16)
    z = coordinates(code).requires_grad_()
    with pytest.raises(RuntimeError, match="differentiates once"):
        torch.autograd.grad(code.logsumexp(z).sum(), z, create_graph=True)
    broken = torch.full((2, 16), math.nan)
    assert code.logsumexp(broken).isnan().all()
    assert code.logsumexp(torch.zeros(0, 16)).shape == (0,)


def test_logsumexp_is_one_operator_to_a_compiler():
    code = KerdockCode(1000, 64)
    z = coordinates(code).float().requires_grad_()
    compiled = torch.compile(code.logsumexp, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), code.logsumexp(z))
    (got,) = torch.autograd.grad(compiled(z).square().sum(), z)
    (expected,) = torch.autograd.grad(code.logsumexp(z).square().sum(), z)
    torch.testing.assert_close(got, expected)
    torch.library.opcheck(
        torch.ops.etf_heads.bases_logsumexp.default,
        (z, code.signs, 0, 1000, None, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@each_code
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("tile", [1, 2**18])
def test_topk_is_that_of_the_scores(code, k, tile, monkeypatch):
    monkeypatch.setattr(tiles_module, "_CPU_TILE", tile)
    z = coordinates(code, 9)
    for task, rows in enumerate(code.tasks.slices):
        scores = (z @ code.matrix().T)[:, rows]
        take = min(k, scores.shape[1])
        values, classes = code.topk(z, take, task)
        torch.testing.assert_close(values, scores.topk(take).values, **EXACT)
        torch.testing.assert_close(scores.gather(1, classes), values, **EXACT)
        assert all(len(set(row)) == take for row in classes.tolist())


def test_topk_of_all_classes():
    code = KerdockCode([39, 24], 16)
    z = coordinates(code, 3)
    for task, rows in enumerate(code.tasks.slices):
        scores = (z @ code.matrix().T)[:, rows]
        values, classes = code.topk(z, scores.shape[1], task)
        torch.testing.assert_close(values, scores.sort(descending=True).values, **EXACT)
        assert torch.equal(classes.sort().values[0], torch.arange(scores.shape[1]))


LARGE = KerdockCode(65_999, 256)


@given(
    cosines=st.lists(st.floats(0, 1), min_size=1, max_size=12),
    others=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_the_list_decoder_finds_the_best_or_admits_it(cosines, others, seed):
    generator = torch.Generator().manual_seed(seed)
    count = len(cosines)
    noise = torch.randn(count, 256, generator=generator, dtype=torch.float64)
    for _ in range(others):  # an enemy: more class vectors mixed in
        noise += 8 * LARGE.vectors(torch.randint(LARGE.rows, (count,), generator=generator))
    cosine = torch.tensor(cosines, dtype=torch.float64).unsqueeze(1)
    labels = torch.randint(LARGE.rows, (count,), generator=generator)
    h = cosine * LARGE.vectors(labels) + (1 - cosine**2).sqrt() * noise / noise.norm(
        dim=1, keepdim=True
    )
    search = Search(LARGE.signs, 0, LARGE.rows, quadratic=True)
    exact, _ = search._exact(h, 1)
    values, _, proved = search._listed(h)
    torch.testing.assert_close(values[proved], exact[proved], **EXACT)
    assert proved[cosine[:, 0] > 0.8].all()
    best, classes = LARGE.topk(h, 1)
    torch.testing.assert_close(best, exact, **EXACT)
    found = (LARGE.vectors(classes[:, 0]) * h).sum(1, keepdim=True)
    torch.testing.assert_close(found, exact, **EXACT)


@pytest.mark.parametrize("code", [LARGE, GoldCode(2112, 32), DelsarteGoethalsCode(2080, 16)])
def test_limits_of_bases_hold_and_are_reached(code):
    z = torch.cat([coordinates(code, 8), code.vectors(torch.randint(code.rows, (8,)))])
    limits = basis_limits(z, code.signs)
    flipped = z.unsqueeze(1) * code.signs
    largest = (flipped @ hadamard(code.columns)).abs().amax(-1)
    assert (largest <= limits).all()
    assert (largest / limits).max() == pytest.approx(1, abs=1e-6)  # they are tight for a vector


def test_the_list_decoder_proves_most_queries_at_a_million_classes():
    code = KerdockCode(1_050_624, 1024)
    labels = torch.randint(code.rows, (64,))
    vectors = code.vectors(labels, dtype=torch.float32)
    noise = torch.randn(64, 1024)
    noise -= (noise * vectors).sum(1, keepdim=True) * vectors
    h = 0.4 * vectors + 0.84**0.5 * torch.nn.functional.normalize(noise)
    search = Search(code.signs, 0, code.rows, quadratic=True)
    _, classes, proved = search._listed(h)
    assert proved.double().mean() > 0.9
    assert torch.equal(classes[:, 0], labels)


@pytest.mark.parametrize("size", [1, 2, 8, 64, 128])
def test_rows_of_hadamard_matrices(size):
    rows = hadamard_rows(torch.arange(size), size)
    torch.testing.assert_close(rows, hadamard(size), rtol=0, atol=1e-15)


@each_code
def test_signs_are_rebuilt_and_not_saved(code):
    assert not code.state_dict()
    twin = type(code)(code.tasks, code.columns, device="meta")
    assert twin.signs.is_meta
    assert torch.equal(twin.to_empty(device="cpu").signs, code.signs)
    assert code.to(torch.bfloat16).signs.dtype == torch.int8
    assert code.signs.nbytes <= code.rows / 2


@pytest.mark.parametrize(
    ("classes", "in_features", "family", "columns"),
    [
        (10, 64, SimplexCode, 10),
        (65, 64, SimplexCode, 64),
        (66, 64, CrossPolytopeCode, 33),
        (200, 100, CrossPolytopeCode, 100),
        (129, 64, KerdockCode, 64),
        (1000, 100, KerdockCode, 64),
        (1600, 768, GoldCode, 512),
        (4225, 64, DelsarteGoethalsCode, 64),
        ([40, 25], 63, SimplexCode, 63),
        ([40, 30], 63, CrossPolytopeCode, 35),
        ({"a": 500, "b": 99}, 64, KerdockCode, 64),
    ],
)
def test_the_code_for_tasks_and_features(classes, in_features, family, columns):
    code = spherical_code(classes, in_features)
    assert (type(code), code.columns) == (family, columns)
    assert FixedHead(in_features, code).out_features == code.rows


def test_a_code_takes_the_widest_room_that_it_has():
    assert KerdockCode(100).columns == 16
    assert KerdockCode(100).fitting(300).columns == 256
    assert GoldCode(100).fitting(300).columns == 128
    assert KerdockCode(100, 16).fitting(300).columns == 16
    assert FixedHead(300, KerdockCode(100)).orientation.columns == 256


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: KerdockCode(300, 16),
            r"columns=16 is too small for KerdockCode .*150 .* 144\): 64 needed; .*Delsarte",
        ),
        (lambda: KerdockCode(300).fitting(32), "in_features=32 is too small .* 144.: 64 needed"),
        (lambda: KerdockCode(10, 32), "columns=32 is too small .* .there is none.: 4 needed"),
        (lambda: KerdockCode(10).fitting(3), "in_features=3 is too small .* .there is none"),
        (lambda: CrossPolytopeCode(9, 4), "columns=4 is too small .* 5 needed"),
        (lambda: CrossPolytopeCode(9).fitting(4), "in_features=4 is too small for CrossPolytope"),
        (lambda: KerdockCode(10, 16).fitting(8), "in_features=8 is too small"),
        (lambda: spherical_code(100, 3), "in_features=3 is too small for 100 classes: there are"),
        (lambda: spherical_code(10**9, 64), "there are codes of up to 131,200"),
    ],
)
def test_too_many_classes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
