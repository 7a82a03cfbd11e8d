"""The kernel of many bases computes what dense products with their vectors give."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from etf_heads import SphericalCodeHead, kernels
from etf_heads.codes import AssignedCode, CrossPolytopeCode, GoldCode, KerdockCode
from etf_heads.kernels import _bases, _library
from etf_heads.losses import CompoundCrossEntropy

BOUNDS = {torch.float64: 1e-13, torch.float32: 2e-6}
PRECISIONS = {**BOUNDS, torch.bfloat16: 4e-3}


def transformed(x):
    """Products of (..., n) with the orthogonal Hadamard matrix, bit by bit."""
    n, size = x.shape[-1], 1
    while size < n:
        pairs = x.unflatten(-1, (-1, 2, size))
        a, b = pairs.unbind(-2)
        x, size = torch.stack([a + b, a - b], dim=-2).flatten(-3), 2 * size
    return x / math.sqrt(n)


def problem(bits, bases, rows, *, scale=3.0, dtype=torch.float64, seed=0):
    """Coordinates, signs of bases, and scores (samples, bases, n)."""
    generator, n = torch.Generator().manual_seed(seed), 2**bits
    z = (scale * torch.randn(rows, n, generator=generator, dtype=torch.float64)).to(dtype)
    signs = 1 - 2 * torch.randint(2, (bases - 1, n), generator=generator, dtype=torch.int8)
    return z, signs, scores_of(z.double(), signs)


def scores_of(z, signs):
    """Products of (samples, n) with all vectors: (samples, bases, n)."""
    return torch.stack([z, *[transformed(z * q) for q in signs.double()]], dim=1)


def of_classes(scores, first, classes, chosen=None):
    """Scores (samples, classes) of the classes from a line on."""
    lines = scores.flatten(1)[:, first : first + -(-classes // 2)]
    ends = torch.stack([lines, -lines], dim=-1)
    if chosen is not None:
        ends = ends.masked_fill(~chosen, -math.inf)
    return ends.flatten(1)[:, :classes]


@given(
    bits=st.integers(0, 8),
    bases=st.integers(1, 5),
    rows=st.sampled_from([0, 1, 3, 4, 5, 8, 9, 17]),
    dtype=st.sampled_from(list(BOUNDS)),
    scale=st.sampled_from([0.0, 0.1, 1.0, 30.0, 3000.0]),
    span=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    odd=st.booleans(),
    share=st.sampled_from([None, 0.1, 0.9]),
    seed=st.integers(0, 99),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@pytest.mark.usefixtures("variant")
def test_sums_and_gradients_are_those_of_dense_scores(  # noqa: PLR0917
    bits, bases, rows, dtype, scale, span, odd, share, seed
):
    z, signs, scores = problem(bits, bases, rows, scale=scale, dtype=dtype, seed=seed)
    room = bases * 2**bits
    first = int(span[0] * (room - 1))
    classes = max(1, 2 * (1 + int(span[1] * (room - first - 1))) - odd)
    chosen = None
    if share is not None:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.rand(-(-classes // 2), 2, generator=generator) < share
        chosen[0, 0] = True  # a task has a class
    arguments = z, signs, first, classes, chosen
    sums, gradient = kernels.bases_logsumexp(*arguments, gradient=True)
    # The gradient of the log-sum-exp by the dense vectors, which are the scores of the axes.
    axes = scores_of(torch.eye(2**bits, dtype=torch.float64), signs)
    vectors = of_classes(axes, first, classes, chosen).nan_to_num(neginf=0)
    dense = of_classes(scores, first, classes, chosen)
    expected = dense.softmax(1) @ vectors.T
    bound = BOUNDS[dtype] * (1 + scale)
    torch.testing.assert_close(sums.double(), dense.logsumexp(1), rtol=bound, atol=10 * bound)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=10 * bound)
    alone, none = kernels.bases_logsumexp(*arguments, gradient=False)
    torch.testing.assert_close(alone, sums, rtol=0, atol=0)
    assert none.numel() == 0
    for basis, best in enumerate(kernels.best_of_bases(*arguments).mT, first // 2**bits):
        start, stop = max(first, basis * 2**bits), (basis + 1) * 2**bits
        some = dense[:, 2 * (start - first) : 2 * (stop - first)].amax(1)
        torch.testing.assert_close(best.double(), some, rtol=bound, atol=bound)


@pytest.mark.parametrize("bits", range(9, 14))
@pytest.mark.usefixtures("kernel")
def test_large_transforms(bits):
    z, signs, scores = problem(bits, 2, 3)
    both = of_classes(scores, 0, 2 ** (bits + 2)).logsumexp(1)
    sums, gradient = kernels.bases_logsumexp(z, signs, 0, 2 ** (bits + 2), None, gradient=True)
    torch.testing.assert_close(sums, both)
    # By Euler's theorem on the way from 0: h . gradient is the mean score under the softmax.
    dense = of_classes(scores, 0, 2 ** (bits + 2))
    torch.testing.assert_close((z * gradient).sum(1), (dense.softmax(1) * dense).sum(1))


@pytest.mark.parametrize("columns", [2, 3, 5, 12, 33])
@pytest.mark.usefixtures("variant")
def test_one_basis_of_any_size(columns):
    for classes in (2 * columns, 2 * columns - 1):
        code = CrossPolytopeCode(classes, columns)
        z = torch.randn(11, columns, dtype=torch.float64, requires_grad=True)
        sums = code.logsumexp(z)
        expected = code(z).logsumexp(1)
        torch.testing.assert_close(sums, expected)
        got, dense = (torch.autograd.grad(s.sum(), z)[0] for s in (sums, expected))
        torch.testing.assert_close(got, dense)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("classes", [2 * 64 * 4, 2 * 64 * 3 + 5])
@pytest.mark.usefixtures("variant")
def test_what_is_not_finite_stays_in_its_row(bad, classes):
    z, signs, _ = problem(6, 4, 9, dtype=torch.float32)
    clean = kernels.bases_logsumexp(z, signs, 0, classes, None, gradient=True)
    z[4, 7] = bad
    sums, gradient = kernels.bases_logsumexp(z, signs, 0, classes, None, gradient=True)
    others = torch.arange(9) != 4
    assert sums[4].isnan()
    assert gradient[4].isnan().all()
    torch.testing.assert_close(sums[others], clean[0][others], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient[others], clean[1][others], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("kernel")
def test_coordinates_of_any_strides():
    z, signs, _ = problem(4, 3, 12, dtype=torch.float32)
    expected = kernels.bases_logsumexp(z, signs, 5, 60, None, gradient=True)
    wide = torch.full((24, 40), math.nan)
    wide[::2, 3:19] = z
    for same in (z.T.contiguous().T, wide[::2, 3:19]):
        got = kernels.bases_logsumexp(same, signs, 5, 60, None, gradient=True)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    one = kernels.bases_logsumexp(z[:1].expand(12, 16), signs, 5, 60, None, gradient=True)
    torch.testing.assert_close(one[0], expected[0][:1].expand(12), rtol=0, atol=0)


@pytest.mark.usefixtures("kernel")
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(_library, "_PARALLEL", 0)
    z, signs, _ = problem(6, 9, 70, dtype=torch.float32)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(kernels.bases_logsumexp(z, signs, 3, 1000, None, gradient=True))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


CODES = {
    "kerdock": lambda: KerdockCode(200, 64),
    "tasks": lambda: KerdockCode([71, 3, 150], 16),
    "gold": lambda: GoldCode(900, 32),
    "cross-polytope": lambda: CrossPolytopeCode([9, 4], 7),
    "some": lambda: AssignedCode(KerdockCode(288, 16), 51),
}


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.usefixtures("kernel")
def test_losses_are_those_of_the_operations(monkeypatch, name, dtype, smoothing, reduction):
    code, calls = CODES[name](), []
    if name == "some":
        code.assign(torch.randperm(288)[:51])
    head = SphericalCodeHead(70, code.tasks, code=code, dtype=torch.float64)
    h = torch.randn(19, 70, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.stack([torch.randint(k, (19,)) for k in code.tasks.sizes], dim=1)
    labels[torch.rand(labels.shape) < 0.2] = -100
    criterion = CompoundCrossEntropy(label_smoothing=smoothing, reduction=reduction)
    library = _library.library
    monkeypatch.setattr(_bases, "library", lambda: calls.append(None) or library())
    loss = criterion(h, head, labels)
    assert len(calls) == len(code.tasks)
    upstream = torch.linspace(0.5, 2, loss.numel()).view(loss.shape)
    (got,) = torch.autograd.grad(loss, h, upstream.to(loss))
    kernels.enable(False)
    exact = h.detach().double().requires_grad_()
    expected = criterion(exact, head, labels)
    (gradient,) = torch.autograd.grad(expected, exact, upstream.double())
    kernels.enable()
    # Losses of bfloat16 features are in float32, their coordinates are not.
    torch.testing.assert_close(
        loss.double(), expected, rtol=10 * PRECISIONS[dtype], atol=PRECISIONS[dtype]
    )
    bound = 10 * PRECISIONS[dtype] * float(gradient.abs().max())
    torch.testing.assert_close(got.double(), gradient, rtol=0, atol=bound)


@pytest.mark.usefixtures("kernel")
def test_topk_without_labels_is_that_of_the_operations(monkeypatch):
    calls, library = [], _library.library
    monkeypatch.setattr(_bases, "library", lambda: calls.append(None) or library())
    head, h = SphericalCodeHead(64, [1000, 77]), torch.randn(9, 64)
    found = head.topk(h, 3)
    assert len(calls) == 2
    kernels.enable(False)
    torch.testing.assert_close(found, head.topk(h, 3))
    kernels.enable()


@pytest.mark.usefixtures("kernel")
def test_modes_and_tracers_see_operations(monkeypatch):
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen, code, z = [], KerdockCode(200, 16), torch.randn(3, 16)
    expected = code.logsumexp(z)
    monkeypatch.setattr(_bases, "library", None)
    with Names():
        torch.testing.assert_close(code.logsumexp(z), expected)
        code.topk(z, 2)
    assert torch.ops.aten.mm.default in seen or torch.ops.aten.bmm.default in seen
    torch.testing.assert_close(torch.vmap(lambda z: code(z).logsumexp(0))(z), expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"coordinates": torch.zeros(3, 8)}, r"expected int8 \(bases - 1, 8\)"),
        ({"coordinates": torch.zeros(16)}, r"coordinates are torch.float32 \(16,\)"),
        ({"coordinates": torch.zeros(3, 16).half()}, "coordinates are torch.float16"),
        ({"signs": torch.ones(2, 16)}, "signs are torch.float32"),
        ({"first": -1}, "from line -1 on: there are 48 lines"),
        ({"first": 44}, "10 classes from line 44 on"),
        ({"classes": 0}, "0 classes"),
        ({"chosen": torch.ones(4, 2, dtype=torch.bool)}, r"chosen is .* not \(5, 2\)"),
        ({"chosen": torch.ones(5, 2)}, "chosen is torch.float32"),
    ],
)
@pytest.mark.usefixtures("kernel")
def test_arguments_that_do_not_fit_are_errors(changed, message):
    signs = torch.ones(2, 16, dtype=torch.int8)
    arguments = {"coordinates": torch.zeros(3, 16), "signs": signs, "first": 3, "classes": 10}
    arguments |= {"chosen": None, "gradient": True} | changed
    with pytest.raises(ValueError, match=message):
        kernels.bases_logsumexp(**arguments)


@pytest.mark.usefixtures("kernel")
def test_transforms_need_a_power_of_two():
    ones = torch.ones(1, 12, dtype=torch.int8)
    with pytest.raises(ValueError, match="unless this is a power of two"):
        kernels.bases_logsumexp(torch.zeros(3, 12), ones, 0, 30, None, gradient=True)
