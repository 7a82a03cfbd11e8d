"""The contract of ``nn.Module``: copies, casts, moves and checkpoints of every head."""

import copy
import pickle
import shutil
from itertools import cycle

import pytest
import safetensors.torch
import torch
from torch import nn

from etf_heads import CompoundETFHead, ETFHead
from tests.cases import EVERY_HEAD, REPRESENTATIVES, HeadCase, all_logits, features

each_head = pytest.mark.parametrize("case", EVERY_HEAD, ids=str)
a_few_heads = pytest.mark.parametrize(
    "case",
    [
        HeadCase(64, 10, "tiled"),
        HeadCase(64, 10, "learned"),
        HeadCase(40, {"a": 10, "b": 7}, "nearest"),
        HeadCase(60, {"a": 10, "b": 7}, "hadamard", {"bias": True}),
        HeadCase(64, [10, 10], "canonical", {"feature_norm": "unit", "scale": 8.0}),
        HeadCase(15, [10, 7], "random", {"learn_scale": True}),
        HeadCase(11, [10, 7], "tiled", {"cross_task": "independent"}),
    ],
    ids=str,
)


FEW = set(map(id, REPRESENTATIVES[::4]))
# What takes seconds a head; the others with -m slow.
few_heads = pytest.mark.parametrize(
    "case",
    [c if id(c) in FEW else pytest.param(c, marks=pytest.mark.slow) for c in EVERY_HEAD],
    ids=str,
)


def logits(head, h):
    with torch.no_grad():
        return all_logits(head.eval()(h))


@pytest.mark.parametrize(
    ("case", "dtype"),
    list(zip(EVERY_HEAD, cycle([torch.float32, torch.bfloat16, torch.float16]), strict=False)),
    ids=str,
)
def test_low_precision_stays_near_float64(case, dtype):
    h = features(case, 16, dtype=dtype)
    exact = logits(case.make(), h.double())
    head = case.make(dtype=torch.float32).to(dtype)
    assert head.weight.dtype == dtype
    ours = logits(head, h)
    assert ours.dtype == dtype
    # A few roundings at the size of the largest product |W| |h|, whichever order sums take.
    normalised = h if head.norm is None else head.norm(h)
    reach = case.options.get("scale", 1.0) * normalised.double().norm(dim=-1).max()
    assert (ours.double() - exact).abs().max() <= 3 * torch.finfo(dtype).eps * reach


@each_head
def test_weight_follows_dtype_and_keeps_float64_exact(case):
    there_and_back = case.make().to(torch.float32).to(torch.float64)
    rounded = case.stores_data or case.orientation == "learned"  # to float32
    tolerance = 1e-6 if rounded else 1e-12
    torch.testing.assert_close(there_and_back.weight, case.make().weight, rtol=0, atol=tolerance)


@a_few_heads
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(case, dtype):
    head = case.make(dtype=torch.float32).eval()
    h = features(case, 8, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = all_logits(head(h))
    output.float().square().sum().backward()
    exact = logits(case.make(), h.detach().double())
    scale = exact.abs().max()
    assert (output.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps * scale
    assert h.grad is not None
    assert h.grad.isfinite().all()


@each_head
def test_deepcopy_and_pickle(case):
    head = case.make()
    h = features(case, 4)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):  # noqa: S301 (our own bytes)
        assert torch.equal(logits(twin, h), logits(head, h))
        assert repr(twin) == repr(head)


@each_head
def test_meta_device_then_to_empty(case):
    if case.stores_data:
        pytest.skip("a stored matrix is data: it comes with the checkpoint")
    head = case.make(device="meta")
    assert head.weight.is_meta
    assert all_logits(head(features(case, 4).to("meta"))).is_meta
    head = head.to_empty(device="cpu")
    for module in head.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    h = features(case, 4)
    assert torch.equal(logits(head, h), logits(case.make(), h))


@pytest.mark.parametrize("orientation", ["canonical", "tiled", "hadamard", "random"])
def test_a_head_without_learned_parts_needs_no_initialisation(orientation):
    case = HeadCase(64, {"a": 10, "b": 7}, orientation)
    head = case.make(device="meta").to_empty(device="cpu")
    h = features(case, 4)
    assert torch.equal(logits(head, h), logits(case.make(), h))


@each_head
def test_state_dict_round_trip_through_safetensors(case, tmp_path):
    head = case.make()
    for parameter in head.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    head.train()(features(case, 8))  # moves running statistics, where there are any
    path = tmp_path / "head.safetensors"
    safetensors.torch.save_file(head.state_dict(), path)
    twin = case.make()
    twin.load_state_dict(safetensors.torch.load_file(path), strict=True)
    h = features(case, 4)
    assert torch.equal(logits(twin, h), logits(head, h))
    safetensors.torch.save_model(head, path)
    safetensors.torch.load_model(twin, path)
    assert torch.equal(logits(twin, h), logits(head, h))


def test_a_learned_checkpoint_does_not_overwrite_the_geometry():
    head, linear = ETFHead(32, 10), nn.Linear(32, 10)
    before = head.weight
    head.load_state_dict(linear.state_dict(), strict=False)
    assert torch.equal(head.weight, before)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight"):
        head.load_state_dict(linear.state_dict())


@torch._dynamo.config.patch(error_on_recompile=True)  # one graph for all of them
def check_compiled(case, backend):
    head = case.make(dtype=torch.float32).eval()
    torch.compiler.reset()
    compiled = torch.compile(head, fullgraph=True, dynamic=True, backend=backend)
    for batch in (29, 11, 3):  # none a size of a head: torch would take equal sizes for one
        h = features(case, batch, dtype=torch.float32).requires_grad_()
        ours, eager = all_logits(compiled(h)), all_logits(head(h))
        torch.testing.assert_close(ours, eager, rtol=0, atol=1e-5)
        (got,) = torch.autograd.grad(ours.square().sum(), h)
        (expected,) = torch.autograd.grad(eager.square().sum(), h)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", REPRESENTATIVES, ids=str)  # no law of pairs of parts
def test_compile_fullgraph_for_any_batch_size(case):
    check_compiled(case, "eager")


@few_heads
def test_compile_with_the_backward_graph(case):
    check_compiled(case, "aot_eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("orientation", ["tiled", pytest.param("hadamard", marks=pytest.mark.slow)])
def test_compile_with_inductor(orientation):
    case = HeadCase(60, {"a": 10, "b": 7}, orientation)
    head = case.make(dtype=torch.float32)
    compiled = torch.compile(head, fullgraph=True)
    h = features(case, 4, dtype=torch.float32).requires_grad_()
    ours, eager = all_logits(compiled(h)), all_logits(head(h))
    torch.testing.assert_close(ours, eager, rtol=0, atol=1e-5)
    (got,) = torch.autograd.grad(ours.square().sum(), h)
    (expected,) = torch.autograd.grad(eager.square().sum(), h)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@few_heads
def test_export_for_any_batch_size(case, tmp_path):
    head = case.make(dtype=torch.float32).eval()
    example = (features(case, 4, dtype=torch.float32),)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(head, example, dynamic_shapes=shapes)
    path = tmp_path / "head.pt2"
    torch.export.save(program, path)
    for ours in (program, program.run_decompositions(), torch.export.load(path)):
        module = ours.module()
        for batch in (1, 7):
            h = features(case, batch, dtype=torch.float32)
            got = all_logits(module(h))
            torch.testing.assert_close(got, logits(head, h), rtol=0, atol=1e-6)


@each_head
def test_to_linear_has_the_same_logits(case):
    head = case.make()
    head.train()(features(case, 8))
    kind = case.options.get("feature_norm")
    if kind in ("layer", "unit"):
        with pytest.raises(ValueError, match="does not fold into a linear layer"):
            head.to_linear()
        return
    if head.bias is not None:
        nn.init.normal_(head.bias)
    linear = head.to_linear()
    h = features(case, 4)
    if isinstance(linear, nn.ModuleDict):
        assert tuple(linear) == head.tasks.labels
        dense = torch.cat([module(h) for module in linear.values()], dim=-1)
    else:
        dense = linear(h)
    torch.testing.assert_close(dense, logits(head, h), rtol=0, atol=1e-12)


def test_output_has_the_shape_that_the_tasks_have():
    h = torch.randn(3, 20)
    named = CompoundETFHead(20, {"b": 3, "a": 4})(h)
    assert list(named) == ["b", "a"]
    assert [z.shape[-1] for z in named.values()] == [3, 4]
    numbered = CompoundETFHead(20, [3, 4])(h)
    assert isinstance(numbered, tuple)
    assert [z.shape[-1] for z in numbered] == [3, 4]
    assert ETFHead(20, 5)(h).shape == (3, 5)


def test_task_weight_by_name_and_position():
    head = CompoundETFHead(20, {"b": 3, "a": 4})
    assert torch.equal(head.task_weight("a"), head.weight[3:])
    assert torch.equal(head.task_weight(0), head.weight[:3])


def test_sizes_are_where_linear_has_them():
    head = CompoundETFHead(20, [3, 4])
    assert (head.in_features, head.out_features) == (20, 7)
    assert "in_features=20, out_features=7, bias=False, scale=1" in repr(head)


def test_batch_norm_standardises_over_all_leading_dimensions():
    head = ETFHead(6, 3, feature_norm="batch", dtype=torch.float64)
    h = 5 + 3 * torch.randn(4, 5, 6, dtype=torch.float64)
    seen = []
    head.orientation.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    head(h)
    flat = h.reshape(-1, 6)
    expected = (flat - flat.mean(0)) / (flat.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(seen[0].reshape(-1, 6), expected)


def test_unit_norm_of_zero_is_zero_in_every_precision():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        head = ETFHead(6, 3, feature_norm="unit")
        h = torch.zeros(2, 6, dtype=dtype, requires_grad=True)
        head(h).sum().backward()
        assert not head(h).any()
        assert h.grad.isfinite().all()


def test_forward_refuses_features_of_another_size():
    with pytest.raises(ValueError, match="features have 65 entries, the head takes 64"):
        ETFHead(64, 10)(torch.randn(2, 65))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ETFHead(8, 10),
            "a simplex ETF of 10 classes: 9 needed; or use SphericalCod",
        ),
        (lambda: ETFHead(8, 1), "out_features=1: a task needs at least 2 classes"),
        (lambda: ETFHead(8, 0), "out_features must be a positive integer, got 0"),
        (lambda: ETFHead(0, 2), "in_features must be a positive integer, got 0"),
        (lambda: ETFHead(8.5, 2), "in_features must be a positive integer, got 8.5"),
        (lambda: ETFHead(8, 2, scale=0.0), "scale must be a positive finite number, got 0.0"),
        (lambda: ETFHead(8, 2, scale=float("nan")), "scale must be a positive finite number"),
        (lambda: ETFHead(8, 2, orientation="nice"), "unknown orientation 'nice'"),
        (lambda: ETFHead(8, 2, feature_norm="group"), "feature_norm must be 'batch', 'layer', 'un"),
        (lambda: ETFHead(8, 3, orientation=torch.eye(8)[:, :5]), "take 3 or 2 columns, the orien"),
        (lambda: ETFHead(8, 3, orientation=torch.eye(7)[:, :3]), "made for 7 features, but in_fe"),
        (
            lambda: CompoundETFHead(15, [10, 10]),
            "in_features=15 .* orthogonal ETFs: 18 needed; or use cross_task='independent'",
        ),
        (
            lambda: CompoundETFHead(5, {"a": 10, "b": 7}),
            "in_features=5 .* 2 tasks of 7 to 10 classes with orthogonal ETFs: 15 needed; or use",
        ),
        (
            lambda: CompoundETFHead(8, [10, 10], cross_task="independent"),
            "in_features=8 is too small for 2 tasks of 10 classes with independent ETFs: 9 needed",
        ),
        (lambda: CompoundETFHead(30, [10, 10], cross_task="free"), "cross_task must be one of ort"),
        (lambda: CompoundETFHead(30, {"a": 1, "b": 2}), r"tasks\['a'\]=1: a task needs at least"),
        (lambda: CompoundETFHead(30, []), "tasks is empty"),
        (
            lambda: CompoundETFHead(30, [5, 5], orientation=torch.eye(30)[:, :6]),
            "orthogonal simplex ETFs of .* take 10 or 8 columns, the orientation has 6",
        ),
        (
            lambda: CompoundETFHead(
                30, [5, 5], cross_task="independent", orientation=torch.eye(30)[:, :3]
            ),
            r"take 10 or 8 \(or down to 4\) columns, the orientation has 3",
        ),
    ],
)
def test_bad_input_gets_a_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
