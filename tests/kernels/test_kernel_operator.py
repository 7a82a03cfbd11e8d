"""The kernel as a function of PyTorch: autograd, compilers, modes, and what it refuses."""

import ctypes
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from etf_heads import CompoundETFHead, ETFHead, kernels
from etf_heads.kernels import _cross_entropy, _library
from etf_heads.losses import CompoundCrossEntropy

pytestmark = pytest.mark.usefixtures("kernel")
SIZES = [5, 40]


def batch(dtype=torch.float32, requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(6, 60, generator=generator, dtype=dtype).requires_grad_(requires_grad)
    return h, torch.stack([torch.randint(k, (6,), generator=generator) for k in SIZES], dim=1)


def test_it_differentiates_any_number_of_times():
    h, labels = (rows[:2] for rows in batch(torch.float64))
    head, labels[0, 0] = CompoundETFHead(60, SIZES, dtype=torch.float64), -100
    for reduction in ("mean", "task"):
        criterion = CompoundCrossEntropy(label_smoothing=0.1, reduction=reduction)
        assert torch.autograd.gradcheck(lambda h: criterion(h, head, labels), h)  # noqa: B023
        assert torch.autograd.gradgradcheck(
            lambda h: criterion(h, head, labels),  # noqa: B023
            h,
            fast_mode=True,
        )


def test_it_goes_back_twice():
    (h, labels), head = batch(), CompoundETFHead(60, SIZES)
    loss = CompoundCrossEntropy()(h, head, labels)
    first, second = (torch.autograd.grad(loss, h, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_without_gradients_none_are_kept():
    (h, labels), head = batch(), CompoundETFHead(60, SIZES)
    loss = CompoundCrossEntropy()(h, head, labels)
    with torch.no_grad():
        plain = CompoundCrossEntropy()(h, head, labels)
    assert loss == plain
    assert not plain.requires_grad


def test_normalised_features_get_their_gradients():
    h, labels = batch()
    for norm in ("batch", "layer", "unit"):
        head = CompoundETFHead(60, SIZES, feature_norm=norm)
        got = CompoundCrossEntropy()(h, head, labels)
        kernels.enable(False)
        expected = CompoundCrossEntropy()(h, head, labels)
        kernels.enable()
        torch.testing.assert_close(got, expected)
        got, expected = (torch.autograd.grad(loss, h) for loss in (got, expected))
        torch.testing.assert_close(got, expected)


def test_under_autocast_it_is_the_same():
    (h, labels), head = batch(), CompoundETFHead(60, SIZES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CompoundCrossEntropy()(h, head, labels)
    assert loss.dtype == torch.float32
    assert loss == CompoundCrossEntropy()(h, head, labels)


@pytest.mark.parametrize("sizes", [SIZES, [45]])
def test_compilers_see_one_operator(sizes):
    graphs = []

    def backend(graph, _):
        graphs.append(graph.code)
        return graph

    (h, labels), head = batch(), CompoundETFHead(60, sizes)
    labels, criterion = labels[:, : len(sizes)], CompoundCrossEntropy(label_smoothing=0.1)
    compiled = torch.compile(criterion, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(h, head, labels), criterion(h, head, labels))
    assert "etf_heads.mean_cross_entropies" in graphs[0]
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (6, 3):
        part, own = h[:rows].detach().requires_grad_(), labels[:rows]
        ours, eager = compiled(part, head, own), criterion(part, head, own)
        torch.testing.assert_close(ours, eager)
        torch.testing.assert_close(
            torch.autograd.grad(ours, part), torch.autograd.grad(eager, part)
        )


def test_its_exported_program_holds_the_operator():
    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.criterion = CompoundETFHead(60, SIZES), CompoundCrossEntropy()

        def forward(self, h, labels):
            return self.criterion(h, self.head, labels)

    h, labels = batch(requires_grad=False)
    program = torch.export.export(Loss(), (h, labels))
    assert "etf_heads.mean_cross_entropies" in program.graph_module.code
    torch.testing.assert_close(program.module()(h, labels), Loss()(h, labels))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the check itself
def test_the_operators_pass_pytorchs_own_checks():
    h, labels = batch()
    torch.library.opcheck(_cross_entropy._operator, (h, labels, SIZES, 2.0, 60, -100, 0.1, True))
    torch.library.opcheck(
        _cross_entropy._backward_operator,
        (torch.randn(6, 45), torch.ones(2), SIZES, 60, h.detach()),
    )


def test_modes_see_it():
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen, (h, labels), head = [], batch(), CompoundETFHead(60, SIZES)
    with Names():
        CompoundCrossEntropy()(h, head, labels).backward()
    assert "etf_heads.mean_cross_entropies.default" in seen
    assert "etf_heads.mean_cross_entropies_backward.default" in seen


def test_it_is_not_for_what_it_cannot_do():
    h, labels = batch()
    head = CompoundETFHead(60, SIZES)
    assert kernels.takes(h)
    assert not kernels.takes(h.half())
    assert not kernels.takes(torch.empty(2, 60, device="meta"))
    assert not kernels.takes(h.detach().as_subclass(type("Other", (torch.Tensor,), {})))
    with torch.autograd.forward_ad.dual_level():
        assert not kernels.takes(h)
    value, slope = torch.func.jvp(
        lambda h: CompoundCrossEntropy(reduction="none")(h, head, labels).sum(),
        (h.detach(),),
        (torch.ones_like(h),),
    )
    assert value.isfinite()
    assert slope.isfinite()


@pytest.mark.parametrize("wrong", [-1, 5, 2**40, -(2**63)])
def test_a_label_out_of_range_is_an_error_before_anything_is_written(wrong):
    (h, labels), head = batch(), CompoundETFHead(60, SIZES)
    labels[5, 0] = wrong
    with pytest.raises(ValueError, match=r"labels of task '0' run from .* expected 0 to 4"):
        CompoundCrossEntropy()(h, head, labels)
    means, residual = torch.full((2,), math.pi), torch.full((6, 45), math.pi)
    status = _library.library().etf_heads_cross_entropy(
        *(0, h.data_ptr(), 60, labels.data_ptr(), 2, 1, 6, 60, 2),
        (ctypes.c_int64 * 2)(*SIZES),
        *(1.0, -100, 0.0, means.data_ptr(), 0, residual.data_ptr(), 1),
    )
    assert status == 1
    assert (means == math.pi).all()
    assert (residual == math.pi).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": torch.zeros(6, 1, dtype=torch.long)}, r"labels are torch.int64 \(6, 1\)"),
        ({"labels": torch.zeros(6, 2, dtype=torch.int32)}, "labels are torch.int32"),
        ({"features": torch.zeros(6, 59)}, r"features are \(6, 59\), expected \(N, 60\)"),
        ({"features": torch.zeros(60)}, r"features are \(60,\)"),
        ({"geometry": ((5, 1), 1.0, 60)}, "at least 2"),
        ({"geometry": ((5, 60), 1.0, 60)}, "one a class needed: 65"),
        ({"geometry": ((), 1.0, 60)}, r"at least 2, got \[\]"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(changed, message):
    h, labels = batch()
    arguments = {"features": h, "labels": labels, "geometry": (tuple(SIZES), 1.0, 60)}
    with pytest.raises(ValueError, match=message):
        kernels.mean_cross_entropies(**(arguments | changed))


def test_other_heads_are_left_to_the_operations(monkeypatch):
    monkeypatch.setattr(_cross_entropy, "library", None)
    h, labels = batch()
    for options in ({"bias": True}, {"learn_scale": True}, {"orientation": "hadamard"}):
        CompoundCrossEntropy()(h, CompoundETFHead(60, SIZES, **options), labels)
    CompoundCrossEntropy()(h, CompoundETFHead(60, [5, 56]), labels)  # a basis of Helmert's
    CompoundCrossEntropy(reduction="none")(h, CompoundETFHead(60, SIZES), labels)
    CompoundCrossEntropy()(h, torch.nn.Linear(60, 5), labels[:, 0])
    with pytest.raises(TypeError):
        CompoundCrossEntropy()(h, ETFHead(60, 5), labels[:, 0])
