"""The compiled kernel computes what the operations of PyTorch do, whatever it is given."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from etf_heads import CompoundETFHead, ETFHead, kernels
from etf_heads.geometry import simplex_scale
from etf_heads.kernels import _library
from etf_heads.losses import CompoundCrossEntropy

BOUNDS = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 6e-3}
NAN, INF = math.nan, math.inf


def labels_of(sizes, rows, missing=0.0, seed=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randint(k, (rows,), generator=generator) for k in sizes], dim=1)
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < missing, -100)


def value_and_gradient(criterion, h, head, labels):
    """Losses and the gradient of the features, and that of those of the tasks alone."""
    h = h.detach().requires_grad_()
    losses = criterion(h, head, labels)
    upstream = torch.linspace(0.5, 2, max(1, losses.numel())).to(losses).view(losses.shape)
    return losses, torch.autograd.grad(losses, h, upstream)[0]


def in_operations(*arguments):
    """The same without the kernel."""
    kernels.enable(False)
    try:
        return value_and_gradient(*arguments)
    finally:
        kernels.enable()


def spied(monkeypatch):
    """How often the kernel has been called."""
    calls, library = [], _library.library

    def counted():
        calls.append(None)
        return library()

    monkeypatch.setattr("etf_heads.kernels._cross_entropy.library", counted)
    return calls


@given(
    sizes=st.lists(
        st.sampled_from([2, 3, 7, 8, 9, 10, 16, 17, 31, 32, 33, 65]), min_size=1, max_size=7
    ),
    extra=st.integers(0, 300),
    rows=st.sampled_from([0, 1, 2, 7, 8, 9, 31, 32, 33, 70]),
    dtype=st.sampled_from(list(BOUNDS)),
    orientation=st.sampled_from(["tiled", "tiled", "canonical"]),
    missing=st.sampled_from([0.0, 0.3, 1.0]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    reduction=st.sampled_from(["mean", "task"]),
    seed=st.integers(0, 99),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("variant")
def test_it_agrees_with_the_operations(  # noqa: PLR0917
    sizes, extra, rows, dtype, orientation, missing, smoothing, reduction, seed
):
    d, scale = sum(sizes) + extra, 0.1 + seed / 20
    head = CompoundETFHead(d, sizes, orientation=orientation, scale=scale, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(rows, d, generator=generator, dtype=torch.float64).to(dtype)
    labels = labels_of(sizes, rows, missing, seed)
    criterion = CompoundCrossEntropy(label_smoothing=smoothing, reduction=reduction)
    losses, gradient = value_and_gradient(criterion, h, head, labels)
    expected, lifted = in_operations(criterion, h.double(), head, labels)
    assert losses.dtype == torch.promote_types(dtype, torch.float32)
    assert gradient.dtype == dtype
    bound = BOUNDS[dtype]
    exact = min(bound, BOUNDS[torch.float32])  # losses of bfloat16 features are in float32
    torch.testing.assert_close(losses.double(), expected, rtol=exact, atol=20 * exact)
    torch.testing.assert_close(gradient.double(), lifted, rtol=bound, atol=bound * scale)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("sizes", [[100], [1000], [2] * 40, [20] * 30, [40, 300], [3, 200]])
@pytest.mark.usefixtures("variant")
def test_at_the_sizes_of_networks(monkeypatch, sizes, dtype):
    head, h = CompoundETFHead(2048, sizes, dtype=torch.float64), torch.randn(19, 2048).to(dtype)
    labels, calls = labels_of(sizes, 19, 0.1), spied(monkeypatch)
    criterion = CompoundCrossEntropy(label_smoothing=0.1)
    losses, gradient = value_and_gradient(criterion, h, head, labels)
    assert len(calls) == 2  # forward and backward
    expected, lifted = in_operations(criterion, h.double(), head, labels)
    assert len(calls) == 2
    torch.testing.assert_close(losses.double(), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(gradient.double(), lifted, rtol=BOUNDS[dtype], atol=1e-7)


@pytest.mark.parametrize("sizes", [[10], [40], [3, 40, 2]])
@pytest.mark.parametrize("form", ["columns", "rows", "one", "blocks", "batches"])
@pytest.mark.usefixtures("kernel")
def test_features_and_labels_of_any_strides(sizes, form):
    d = 67
    labels = labels_of(sizes, 24)
    h = {
        "columns": lambda: torch.randn(d, 24).T,
        "rows": lambda: torch.randn(24, 3 * d)[:, 5 : 5 + d],
        "one": lambda: torch.randn(1, d).expand(24, d),
        "blocks": lambda: torch.randn(48, 2 * d)[::2, ::2],
        "batches": lambda: torch.randn(2, d, 12).mT,
    }[form]()
    head, criterion = CompoundETFHead(d, sizes), CompoundCrossEntropy()
    labels = labels.T.contiguous().T if form != "batches" else labels.view(2, 12, -1)
    got = value_and_gradient(criterion, h, head, labels)
    torch.testing.assert_close(got, in_operations(criterion, h, head, labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [[4], [40], [3, 5], [33, 40]])
@pytest.mark.parametrize("bad", [[NAN], [INF], [-INF], [INF, -INF], [NAN, -INF]], ids=str)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.usefixtures("variant")
def test_nan_and_infinity_go_where_they_go_in_the_operations(sizes, bad, smoothing, missing):
    columns, rows = sum(sizes), 9
    h, labels = torch.randn(rows, columns), torch.zeros(rows, len(sizes), dtype=torch.long)
    for row, column in enumerate((0, 1, 2, columns - 1)):  # of the label, of another class
        h[row, column] = bad[0]
        h[row, (column + 1) % columns] = bad[-1]
    h[4] = -INF
    labels[:, 0] = torch.tensor([0, -100] * 4 + [1]) if missing else 0

    def plain(h, _, labels):  # one tile: the scores are the features, times a number
        scores = [z * simplex_scale(z.shape[1]) for z in h.split(sizes, dim=1)]
        sums = [
            F.cross_entropy(z, y, reduction="sum", label_smoothing=smoothing)
            for z, y in zip(scores, labels.unbind(1), strict=True)
        ]
        return torch.stack(sums) / (labels >= 0).sum(0)

    criterion = CompoundCrossEntropy(label_smoothing=smoothing, reduction="task")
    losses, gradient = value_and_gradient(criterion, h, CompoundETFHead(columns, sizes), labels)
    expected, lifted = value_and_gradient(plain, h, None, labels)
    torch.testing.assert_close(losses, expected, equal_nan=True)
    torch.testing.assert_close(gradient, lifted, equal_nan=True, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [4, 10, 100])
@pytest.mark.usefixtures("variant")
def test_losses_of_sure_decisions_are_exact(dtype, classes):
    head = ETFHead(classes, classes, orientation="canonical")
    for margin in (0, 1e-3, 1, 5, 15, 30, 200, 1000, 1e30):
        h = torch.zeros(1, classes, dtype=dtype)
        h[0, 0] = margin
        gap = float(h[0, 0]) * simplex_scale(classes)
        right, wrong = (
            float(CompoundCrossEntropy()(h, head, torch.tensor([label]))) for label in (0, 1)
        )
        expected = math.log1p((classes - 1) * math.exp(-gap))
        few = 8 * torch.finfo(dtype).eps
        assert right == pytest.approx(expected, rel=few, abs=classes / 8 * few)
        assert wrong == pytest.approx(gap + expected, rel=few)
        assert right == 0 or gap < 40


@pytest.mark.usefixtures("kernel")
def test_the_sums_do_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr("etf_heads.kernels._library._PARALLEL", 0)
    head, h = CompoundETFHead(512, [100, 60]), torch.randn(1100, 512)
    labels, found, before = labels_of([100, 60], 1100, 0.2), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(value_and_gradient(CompoundCrossEntropy(), h, head, labels))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)
