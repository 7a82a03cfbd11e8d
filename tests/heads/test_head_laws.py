"""The mathematics of every head in the table: Gram, logits, gradients, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from etf_heads import CompoundETFHead, ETFHead
from etf_heads.geometry import simplex_gram
from tests.cases import (
    EVERY_HEAD,
    HEADS,
    NAMED,
    ORIENTATIONS,
    STRUCTURED,
    HeadCase,
    all_logits,
    features,
)

each_head = pytest.mark.parametrize("case", EVERY_HEAD, ids=str)
each_etf = pytest.mark.parametrize("case", HEADS, ids=str)
EXACT = {"rtol": 0, "atol": 1e-12}


def dense_logits(head, h):
    """What the head computes, written with its dense weight."""
    if head.norm is not None:
        h = head.norm(h)
    logits = h @ head.weight.T
    return logits if head.bias is None else logits + head.bias


@each_etf
def test_every_task_is_a_simplex_etf(case):
    head = case.make()
    scale = case.options.get("scale", 1.0)
    for task, k in enumerate(head.tasks.sizes):
        weight = head.task_weight(task)
        assert weight.shape == (k, case.in_features)
        torch.testing.assert_close(weight @ weight.T, scale**2 * simplex_gram(k), **EXACT)


@each_etf
def test_tasks_are_orthogonal_unless_independent(case):
    head = case.make()
    cross = head.weight @ head.weight.T
    for rows in head.tasks.slices:
        cross[rows, rows] = 0
    fits = case.in_features >= case.sizes.rank
    assert case.orthogonal <= fits
    if fits:
        torch.testing.assert_close(cross, torch.zeros_like(cross), **EXACT)
    else:
        assert cross.abs().max() > 0.1  # there is no room to be orthogonal


@each_head
def test_logits_and_gradients_equal_the_dense_head(case):
    head = case.make(dtype=torch.float64)
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    for shape in [(), (5,), (2, 3, 4), (0,)]:
        if case.options.get("feature_norm") == "batch":
            head.eval()
        h = features(case, *shape).requires_grad_()
        ours, dense = all_logits(head(h)), dense_logits(head, h)
        assert ours.shape == (*shape, head.out_features)
        torch.testing.assert_close(ours, dense, **EXACT)
        upstream = torch.randn_like(ours)
        inputs = [h, *head.parameters()]
        got = torch.autograd.grad(ours, inputs, upstream)
        expected = torch.autograd.grad(dense, inputs, upstream)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


@each_head
def test_rows_are_those_of_the_dense_weight(case):
    head = case.make(dtype=torch.float64)
    for task, (name, k) in enumerate(zip(head.tasks.labels, head.tasks.sizes, strict=True)):
        labels = torch.randint(k, (2, 5))
        rows = head.rows(labels, task)
        torch.testing.assert_close(rows, head.task_weight(task)[labels], **EXACT)
        assert head.tasks.names is None or torch.equal(head.rows(labels, name), rows)
        parameters = [p for n, p in head.named_parameters() if n != "bias"]
        upstream = torch.randn_like(rows)
        if parameters:
            got = torch.autograd.grad(rows, parameters, upstream)
            dense = head.task_weight(task)[labels]
            expected = torch.autograd.grad(dense, parameters, upstream)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
        for wrong in (-1, -100, k):
            with pytest.raises(ValueError, match=rf"labels run from {wrong} to .* 0 to {k - 1}"):
                head.rows(torch.tensor([wrong]), task)


def test_rows_need_to_know_the_task_and_take_labels():
    head = CompoundETFHead(20, {"b": 3, "a": 4})
    with pytest.raises(ValueError, match=r"task is required: one of \['b', 'a'\]"):
        head.rows(torch.tensor([0]))
    with pytest.raises(ValueError, match="no task 'c'"):
        head.rows(torch.tensor([0]), "c")
    with pytest.raises(ValueError, match=r"labels must be a tensor of integers, got torch.float32"):
        head.rows(torch.ones(2), "a")
    assert (
        ETFHead(8, 3).bfloat16().rows(torch.tensor([2], dtype=torch.uint8)).dtype == torch.bfloat16
    )


@pytest.mark.parametrize("orientation", STRUCTURED)
@pytest.mark.parametrize("tasks", [1000, [20] * 50, [100, 200, 300, 400]])
def test_rows_make_no_weight_matrix(tasks, orientation):
    head = HeadCase(2048, tasks, orientation).make(dtype=torch.float32)
    with LargestTensor() as seen:
        head.rows(torch.tensor([1, 7]), 0)
    assert 0 < seen.numel <= 2 * 2048


def test_a_weight_beyond_memory_is_refused_with_the_way_out():
    head = ETFHead(64, 10)
    head.largest_weight = 639
    with pytest.raises(ValueError, match=r"weight has 640 numbers for 10 classes .* take rows\("):
        head.weight  # noqa: B018
    head.largest_weight = 640
    assert head.weight.shape == (10, 64)


@each_head
def test_gradients_pass_gradcheck(case):
    head = case.make()
    h = features(case, 3)[..., : case.in_features].requires_grad_()

    def logits(h, *parameters):
        named = dict(zip(dict(head.named_parameters()), parameters, strict=True))
        return all_logits(torch.func.functional_call(head, named, (h,)))

    # fast_mode: one random direction, so that d = 128 stays quick
    assert torch.autograd.gradcheck(logits, (h, *head.parameters()), fast_mode=True)


@pytest.mark.parametrize("orientation", NAMED)
@pytest.mark.parametrize("in_features", [18, 20, 21, 45, 200])
def test_transforms_of_torch_func_see_the_dense_head(in_features, orientation):
    case = HeadCase(in_features, {"left": 10, "right": 10}, orientation)
    head, h = case.make(), features(case, 4)

    def logits(h):
        return all_logits(head(h))

    torch.testing.assert_close(torch.func.vmap(logits)(h), logits(h), **EXACT)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        each = torch.func.vmap(jacobian(logits))(h)
        torch.testing.assert_close(each, head.weight.expand(4, -1, -1), **EXACT)
    tangent = torch.randn_like(h)
    with torch.autograd.forward_ad.dual_level():
        dual = logits(torch.autograd.forward_ad.make_dual(h, tangent))
        ours = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(ours, tangent @ head.weight.T, **EXACT)


@pytest.mark.parametrize("orientation", STRUCTURED)
@given(columns=st.integers(1, 40), more=st.integers(0, 200))
def test_a_structured_lift_is_the_adjoint_of_its_projection(orientation, columns, more):
    basis = ORIENTATIONS[orientation](columns + more, columns)
    h = torch.randn(2, columns + more, dtype=torch.float64)
    z = torch.randn(2, columns, dtype=torch.float64)
    product = (basis.project(h, scale=-2.5) * z).sum()
    torch.testing.assert_close(product, -2.5 * (h * basis.lift(z)).sum(), rtol=0, atol=1e-10)


@given(
    tasks=st.lists(st.integers(2, 12), min_size=1, max_size=6),
    extra=st.integers(0, 40),
    orientation=st.sampled_from(NAMED),
    scale=st.floats(0.1, 30),
    batch=st.lists(st.integers(0, 3), max_size=3),
)
def test_compound_heads_of_any_size(tasks, extra, orientation, scale, batch):
    case = HeadCase(sum(tasks) - len(tasks) + extra, tasks, orientation, {"scale": scale})
    head = case.make()
    blocks = [simplex_gram(k) for k in tasks]
    expected = scale**2 * torch.block_diag(*blocks)
    torch.testing.assert_close(head.weight @ head.weight.T, expected, rtol=0, atol=1e-12 * scale**2)
    h = features(case, *batch)
    torch.testing.assert_close(all_logits(head(h)), h @ head.weight.T, rtol=0, atol=1e-12 * scale)


@given(
    tasks=st.lists(st.integers(2, 12), min_size=1, max_size=6),
    extra=st.integers(0, 20),
    orientation=st.sampled_from(NAMED),
)
def test_independent_heads_of_any_size(tasks, extra, orientation):
    head = CompoundETFHead(
        max(tasks) - 1 + extra,
        tasks,
        cross_task="independent",
        orientation=orientation,
        dtype=torch.float64,
    )
    for task, k in enumerate(tasks):
        weight = head.task_weight(task)
        torch.testing.assert_close(weight @ weight.T, simplex_gram(k), **EXACT)


@pytest.mark.parametrize("num_classes", [2, 10, 33])
def test_a_canonical_head_under_cross_entropy_is_a_slice(num_classes):
    head = ETFHead(40, num_classes, orientation="canonical", scale=2.5, dtype=torch.float64)
    h = torch.randn(16, 40, dtype=torch.float64, requires_grad=True)
    y = torch.randint(num_classes, (16,))
    factor = 2.5 * (num_classes / (num_classes - 1)) ** 0.5
    ours = F.cross_entropy(head(h), y)
    sliced = F.cross_entropy(factor * h[:, :num_classes], y)
    torch.testing.assert_close(ours, sliced, **EXACT)
    (got,), (expected,) = torch.autograd.grad(ours, h), torch.autograd.grad(sliced, h)
    torch.testing.assert_close(got, expected, **EXACT)


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return result


@pytest.mark.parametrize("orientation", STRUCTURED)
@pytest.mark.parametrize("tasks", [1000, [20] * 50, [100, 200, 300, 400], [2] * 500])
def test_no_weight_matrix_exists_in_forward_or_backward(tasks, orientation):
    case = HeadCase(2048, tasks, orientation)
    head = case.make(dtype=torch.float32)
    h = features(case, 2, dtype=torch.float32).requires_grad_()
    with LargestTensor() as seen:
        all_logits(head(h)).square().sum().backward()
    assert h.grad is not None
    assert 0 < seen.numel <= 2 * 2048  # two samples; K * d is 2,048,000


@pytest.mark.parametrize("orientation", STRUCTURED)
def test_the_largest_tensor_of_a_dense_head_is_its_weight(orientation):
    linear = HeadCase(2048, 1000, orientation).make(dtype=torch.float32).to_linear()
    with LargestTensor() as seen:
        linear(torch.randn(2, 2048)).square().sum().backward()
    assert seen.numel == 1000 * 2048  # so the test above can fail


@pytest.mark.parametrize("orientation", STRUCTURED)
@pytest.mark.parametrize("tasks", [10, {"a": 10, "b": 7}])
def test_a_structured_head_stores_nothing(tasks, orientation):
    head = HeadCase(64, tasks, orientation).make()
    assert not list(head.parameters())
    assert sum(buffer.numel() for buffer in head.buffers()) == 0
    assert not head.state_dict()
