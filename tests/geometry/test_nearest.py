"""The polar factor, and the nearest ETF by it: solvers, gradients, symmetries, missing rank."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etf_heads.geometry import (
    compound_etf,
    helmert,
    nearest_etf,
    nearest_orientation,
    polar,
    riemannian_polar,
    simplex_etf,
    simplex_gram,
)
from tests.cases import orthonormal

F64 = torch.float64
TASKS = [4, 3, 2]


def randn(*shape, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=F64).to(dtype)


def with_singular_values(rows, values, dtype=F64):
    values = torch.as_tensor(values, dtype=F64)
    n = len(values)
    return ((orthonormal(rows, n) * values) @ orthonormal(n, n, seed=1).T).to(dtype)


def forget(means, rows, seen):
    """Means of classes, all but those seen replaced by the average of those seen."""
    seen = torch.tensor(seen)
    mask = torch.zeros(rows, 1, dtype=means.dtype).index_fill(0, seen, 1.0)
    full = torch.zeros(rows, means.shape[-1], dtype=means.dtype).index_copy(0, seen, means)
    return full + (1 - mask) * means.mean(0)


# --- the polar factor


@given(
    n=st.integers(1, 12),
    extra=st.integers(0, 20),
    batch=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from([torch.float32, F64]),
)
def test_polar_is_orthonormal_symmetric_and_positive(n, extra, batch, dtype):
    matrix = torch.randn(*batch, n + extra, n, dtype=dtype)
    factor = polar(matrix)
    atol = 50 * torch.finfo(dtype).eps
    assert factor.shape == matrix.shape
    assert factor.dtype == dtype
    eye = torch.eye(n, dtype=dtype).expand(*batch, n, n)
    torch.testing.assert_close(factor.mT @ factor, eye, rtol=0, atol=atol)
    q = factor.mT @ matrix
    torch.testing.assert_close(q, q.mT, rtol=0, atol=atol * float(matrix.norm()))
    assert torch.linalg.eigvalsh((q + q.mT) / 2).min() >= -atol * float(matrix.norm())


@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (2, 5, 3), (5, 1)])
def test_polar_gradients_of_first_and_second_order(shape):
    matrix = randn(*shape).requires_grad_()
    assert torch.autograd.gradcheck(polar, (matrix,))
    assert torch.autograd.gradgradcheck(polar, (matrix,))


def test_polar_under_vmap():
    matrices, weight = randn(3, 6, 4), randn(6, 4, seed=1)

    def loss(matrix):
        return (polar(matrix) * weight).sum()

    torch.testing.assert_close(
        torch.vmap(polar, in_dims=1)(matrices.movedim(0, 1)), polar(matrices)
    )
    each = torch.stack([torch.func.grad(loss)(matrix) for matrix in matrices])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(matrices), each)


@pytest.mark.parametrize("shape", [(64, 9), (512, 99), (99, 99)])
@pytest.mark.parametrize("condition", [1e1, 1e3])
def test_polar_in_float32_is_exact_up_to_rounding(shape, condition):
    rows, n = shape
    values = torch.logspace(0, -math.log10(condition), n)
    matrix = with_singular_values(rows, values, torch.float32)
    error = (polar(matrix).double() - polar(matrix.double())).abs().max()
    assert error <= 1e-7


@pytest.mark.parametrize("condition", [1e0, 2.9e1, 3.1e1, 1e6])
def test_polar_in_float64_is_as_exact_as_the_svd(condition):
    matrix = with_singular_values(64, torch.logspace(0, -math.log10(condition), 20, dtype=F64))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    factor = polar(matrix)
    torch.testing.assert_close(factor, u @ vh, rtol=0, atol=1e-14 * condition**0.5)
    torch.testing.assert_close(factor.T @ factor, torch.eye(20, dtype=F64), rtol=0, atol=5e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_polar_of_half_precision_is_rounded_once(dtype):
    matrix = randn(20, 5, dtype=dtype)
    assert torch.equal(polar(matrix), polar(matrix.float()).to(dtype))


def test_autocast_leaves_polar_alone():
    matrix = randn(20, 5, dtype=torch.float32).requires_grad_()
    exact = polar(matrix)
    (expected,) = torch.autograd.grad(exact[0].sum(), matrix)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = polar(matrix)
        (got,) = torch.autograd.grad(ours[0].sum(), matrix)
    assert torch.equal(ours, exact)
    torch.testing.assert_close(got, expected)


def test_polar_without_full_rank_is_orthonormal_and_has_a_finite_gradient():
    for dtype in (torch.float32, F64):
        matrix = with_singular_values(7, [2.0, 1.0, 0.0], dtype).requires_grad_()
        factor = polar(matrix)
        torch.testing.assert_close(factor.mT @ factor, torch.eye(3, dtype=dtype))
        factor.square().sum().backward()
        assert matrix.grad.isfinite().all()


# --- the nearest ETF


@given(
    tasks=st.lists(st.integers(2, 7), min_size=1, max_size=4),
    extra=st.integers(0, 6),
    dtype=st.sampled_from([torch.float32, F64]),
    proximal=st.sampled_from([0.0, 0.7]),
)
def test_it_is_a_compound_etf(tasks, extra, dtype, proximal):
    means = torch.randn(sum(tasks), sum(tasks) - len(tasks) + extra, dtype=dtype)
    frame = nearest_etf(means, tasks, proximal=proximal)
    gram = torch.block_diag(*(simplex_gram(k, dtype=dtype) for k in tasks))
    torch.testing.assert_close(frame @ frame.T, gram, rtol=0, atol=100 * torch.finfo(dtype).eps)


@given(seed=st.integers(0, 10_000), length=st.floats(0.1, 10))
def test_no_other_frame_is_nearer(seed, length):
    means, other = randn(9, 11, seed=seed), orthonormal(11, 6, seed=seed + 1)
    centred = torch.cat([block - block.mean(0) for block in means.split(TASKS)])
    frame = nearest_etf(means, TASKS)
    rival = compound_etf(TASKS, 6) @ other.T
    # Both a random frame and a small turn of the frame itself.
    step = randn(11, 11, seed=seed)
    turn = torch.matrix_exp(0.01 * (step - step.T))
    for candidate in (rival, frame @ turn):
        ours = (centred - length * frame).square().sum()
        assert ours <= (centred - length * candidate).square().sum() + 1e-12


def test_of_an_etf_it_is_the_etf_itself():
    frame = compound_etf(TASKS, 6) @ orthonormal(9, 6).T
    torch.testing.assert_close(nearest_etf(3 * frame + 1, TASKS), frame)
    torch.testing.assert_close(nearest_etf(simplex_etf(5, 4)), simplex_etf(5, 4))


def test_solvers_agree():
    means, start = randn(10, 24), orthonormal(24, 9, seed=4)
    exact = nearest_orientation(means, previous=start)
    found = nearest_orientation(means, previous=start, solver="riemannian")
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)
    matrix = means.T @ helmert(10)
    assert (exact * matrix).sum() >= (found * matrix).sum() - 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_the_riemannian_solver_crosses_to_the_right_component_of_square_matrices(seed):
    matrix = with_singular_values(5, [5.0, 4.0, 3.0, 2.0, 1.5])
    start = orthonormal(5, 5, seed=seed)
    torch.testing.assert_close(riemannian_polar(matrix, start), polar(matrix), rtol=0, atol=1e-6)
    start[:, 0] *= -1
    torch.testing.assert_close(riemannian_polar(matrix, start), polar(matrix), rtol=0, atol=1e-6)


def test_the_proximal_term_is_the_papers():
    # With the redundant K-column orientation of the paper, M = I - 11ᵀ/K.
    means, delta = randn(5, 9), 0.8
    centred = (means - means.mean(0)).T / torch.linalg.matrix_norm(means - means.mean(0))
    previous = simplex_etf(5, 4) @ orthonormal(9, 4).T
    coordinates = previous.T @ helmert(5) / math.sqrt(5 / 4)
    linear = 2 / math.sqrt(4) * centred @ helmert(5) + delta * coordinates
    expected = math.sqrt(5 / 4) * helmert(5) @ polar(linear).T
    ours = nearest_etf(means, previous=previous, proximal=delta)
    torch.testing.assert_close(ours, expected)
    near = nearest_etf(means, previous=previous, proximal=1e9)
    torch.testing.assert_close(near, previous, rtol=0, atol=1e-8)


def test_task_weights_decide_who_gets_the_contested_direction():
    contested = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64)
    means = torch.cat([contested, contested + 0.01 * torch.eye(2, dtype=F64)])
    for weights, winner in ([[10, 1], 0], [[1, 10], 1]):
        frame = nearest_etf(means, [2, 2], task_weights=weights)
        assert abs(frame[2 * winner, 0]) > 0.9


@pytest.mark.parametrize("proximal", [0.0, 0.5])
@pytest.mark.parametrize(("tasks", "dim"), [([4], 7), ([4], 3), (TASKS, 9), (TASKS, 6), ([2], 1)])
def test_gradients(tasks, dim, proximal):
    means = randn(sum(tasks), dim).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: nearest_etf(h, tasks, proximal=proximal), (means,))


@pytest.mark.parametrize("dim", [6, 9])
@pytest.mark.parametrize("seen", [[0, 1, 3], [0, 2], [3]])
def test_gradients_with_classes_not_seen(dim, seen):
    means = randn(len(seen), dim).requires_grad_()
    others = randn(5, dim, seed=1)

    def frame(seen_means):
        return nearest_etf(torch.cat([forget(seen_means, 4, seen), others]), TASKS)

    assert torch.autograd.gradcheck(frame, (means,))
    assert torch.autograd.gradgradcheck(frame, (means,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_what_means_leave_open_is_decided_by_the_previous_frame(dtype):
    previous = compound_etf(TASKS, 6) @ orthonormal(8, 6).T
    means = torch.cat([forget(randn(3, 8), 4, [0, 1, 3]), randn(5, 8, seed=1)])
    limit = nearest_etf(means, TASKS, previous=previous, proximal=1e-6)
    means, previous = means.to(dtype), previous.to(dtype)
    frame = nearest_etf(means, TASKS, previous=previous)
    torch.testing.assert_close(frame.double(), limit, rtol=0, atol=1e-5)
    nothing = torch.zeros(9, 8, dtype=dtype)
    torch.testing.assert_close(nearest_etf(nothing, TASKS, previous=previous), previous)


def test_it_is_an_etf_even_where_the_previous_frame_decides_nothing():
    # The one direction that is decided is the one in which the previous frame has the rest.
    means = torch.zeros(3, 4, dtype=F64)
    means[:2, 0] = torch.tensor([1.0, -1.0])
    previous = (simplex_etf(3, 2) @ torch.eye(4, dtype=F64)[[1, 0]])[[0, 1, 2]]
    frame = nearest_etf(means, previous=previous)
    torch.testing.assert_close(frame @ frame.T, simplex_gram(3))


@given(seed=st.integers(0, 10_000))
def test_symmetries(seed):
    means, rotation = randn(9, 11, seed=seed), orthonormal(11, 11, seed=seed)
    frame = nearest_etf(means, TASKS)
    close = {"rtol": 0, "atol": 1e-8}
    torch.testing.assert_close(nearest_etf(means @ rotation, TASKS), frame @ rotation, **close)
    order = torch.cat([torch.randperm(k) + at for k, at in zip(TASKS, (0, 4, 7), strict=True)])
    torch.testing.assert_close(nearest_etf(means[order], TASKS), frame[order], **close)
    shift = torch.repeat_interleave(randn(3, 11, seed=seed + 1), torch.tensor(TASKS), dim=0)
    torch.testing.assert_close(nearest_etf(5 * means + shift, TASKS), frame, **close)


def test_batches():
    means = randn(2, 3, 9, 7)
    frames = nearest_etf(means, TASKS)
    torch.testing.assert_close(frames[1, 2], nearest_etf(means[1, 2], TASKS))
    means[0, 1, 1] = means[0, 1, [0, 2, 3]].mean(0)  # one of them lacks rank
    frames = nearest_etf(means, TASKS)
    torch.testing.assert_close(frames[0, 1], nearest_etf(means[0, 1], TASKS))
    torch.testing.assert_close(frames[1, 2], nearest_etf(means[1, 2], TASKS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: polar(torch.ones(3)), r"of shape \(\.\.\., d, n\), got torch.float32 of shape"),
        (lambda: polar(torch.ones(3, 3, dtype=torch.int64)), "matrix must be a floating-point"),
        (lambda: polar(torch.ones(2, 3)), "3 orthonormal columns do not fit into 2 rows; pass its"),
        (lambda: riemannian_polar(torch.ones(3, 2), torch.eye(3)), "two matrices of one shape"),
        (lambda: nearest_etf(torch.ones(1, 4)), "means have 1 rows: a task needs at least 2"),
        (lambda: nearest_etf(torch.ones(5, 3)), r"3 dimensions, too few .*\[5\] classes: 4 need"),
        (
            lambda: nearest_etf(torch.ones(5, 3), [2, 2]),
            r"5 rows, tasks of \[2, 2\] classes need 4",
        ),
        (lambda: nearest_etf(torch.ones(4, 3), [3, 1]), r"tasks\[1\]=1: a task needs at least 2"),
        (lambda: nearest_etf(torch.ones(4)), r"means must be a floating-point tensor of shape"),
        (lambda: nearest_etf(torch.full((3, 4), torch.nan)), "means must be finite"),
        (lambda: nearest_etf(torch.ones(3, 4), proximal=-1.0), "proximal must be a finite number"),
        (lambda: nearest_etf(torch.ones(3, 4), previous=torch.eye(4)), "previous has shape .4, 4."),
        (lambda: nearest_etf(torch.ones(3, 4), task_weights=[1, 2]), "task_weights has 2 entries"),
        (lambda: nearest_etf(torch.ones(3, 4), task_weights=[0]), "must be a positive finite num"),
        (
            lambda: nearest_orientation(torch.ones(3, 4), solver="svd"),
            "solver must be one of polar",
        ),
    ],
)
def test_bad_input_gets_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
