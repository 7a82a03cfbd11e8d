"""The fused loss equals the sum of PyTorch's own, in values and gradients, for every head."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from etf_heads import CompoundETFHead, ETFHead, kernels
from etf_heads.losses import CompoundCrossEntropy
from tests.cases import EVERY_HEAD, NAMED, HeadCase, all_logits, features

EXACT = {"rtol": 0, "atol": 1e-11}
TASKS = {"left": 10, "right": 10}


def random_labels(tasks, *shape):
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randint(k, shape, generator=generator) for k in tasks.sizes], dim=-1)


def plain(head, h, labels, **options):
    """The loss of each task by PyTorch, from logits that the head makes."""
    logits = all_logits(head(h)).flatten(0, -2).split(head.tasks.sizes, dim=-1)
    columns = labels.flatten(0, -2).unbind(-1)
    return [F.cross_entropy(z, y, **options) for z, y in zip(logits, columns, strict=True)]


def gradients(loss, head, h):
    return torch.autograd.grad(loss, [h, *head.parameters()], retain_graph=True)


@pytest.mark.parametrize("case", EVERY_HEAD, ids=str)
def test_the_loss_is_the_sum_of_the_tasks_cross_entropies(case):
    head = case.make()
    for shape, smoothing in [((5,), 0.0), ((2, 3, 4), 0.1)]:
        h, labels = features(case, *shape).requires_grad_(), random_labels(case.sizes, *shape)
        ours = CompoundCrossEntropy(label_smoothing=smoothing)(h, head, labels)
        # a batch normalisation counts each batch, but normalises with its own statistics
        expected = sum(plain(head, h, labels, label_smoothing=smoothing))
        assert ours.shape == ()
        torch.testing.assert_close(ours, expected, **EXACT)
        got, wanted = gradients(ours, head, h), gradients(expected, head, h)
        torch.testing.assert_close(got, wanted, **EXACT)


@given(
    tasks=st.lists(st.sampled_from([2, 3, 10, 17, 40]), min_size=1, max_size=9),
    extra=st.integers(0, 60),
    orientation=st.sampled_from(NAMED),
    missing=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_any_tasks_with_any_labels_missing(tasks, extra, orientation, missing, seed):
    scale = 0.1 + seed / 10
    case = HeadCase(sum(tasks) - len(tasks) + extra, tasks, orientation, {"scale": scale})
    head, h = case.make(), features(case, 7).requires_grad_()
    labels = random_labels(case.sizes, 7)
    gone = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) < missing
    labels = labels.masked_fill(gone, -100)
    present = [y for y in range(len(tasks)) if not gone[:, y].all()]
    weights = [1.0 + t for t in range(len(tasks))]
    ours = CompoundCrossEntropy(task_weights=weights)(h, head, labels)
    each = plain(head, h, labels)
    expected = sum((weights[t] * each[t] for t in present), start=0 * h.sum())
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12 * scale)
    torch.testing.assert_close(
        gradients(ours, head, h), gradients(expected, head, h), rtol=0, atol=1e-12 * scale
    )


@pytest.mark.parametrize("case", [HeadCase(64, 10), HeadCase(90, [2] * 40), HeadCase(60, [9, 40])])
def test_reductions_are_parts_of_the_mean(case):
    head, h = case.make(), features(case, 6)
    labels = random_labels(case.sizes, 6)
    labels[0, 0] = -100
    weights = [0.5 + t for t in range(len(case.sizes))]
    mean, task, none = (
        CompoundCrossEntropy(reduction=r, task_weights=weights)(h, head, labels)
        for r in ("mean", "task", "none")
    )
    assert none.shape == (6, len(weights))
    assert none[0, 0] == 0
    torch.testing.assert_close(task, none.sum(0) / (labels >= 0).sum(0), **EXACT)
    torch.testing.assert_close(mean, task.sum(), **EXACT)


def test_labels_come_in_every_form_that_heads_take():
    head, h = CompoundETFHead(64, TASKS), torch.randn(6, 64)
    left, right = torch.randint(10, (6,)), torch.randint(10, (6,))
    forms = [{"right": right, "left": left}, (left, right), torch.stack([left, right], -1)]
    losses = [CompoundCrossEntropy()(h, head, labels) for labels in forms]
    assert losses[0] == losses[1] == losses[2]
    single = ETFHead(64, 10)
    losses = [CompoundCrossEntropy()(h, single, y) for y in (left, [left], left.unsqueeze(-1))]
    assert losses[0] == losses[1] == losses[2]


def test_a_batch_without_labels_counts_as_zero_and_moves_nothing():
    for tasks in (TASKS, {"one": 10}, [2, 30]):
        h = torch.randn(6, 64, requires_grad=True)
        head = CompoundETFHead(64, tasks)
        nothing = torch.full((6, len(tasks)), -100)
        loss = CompoundCrossEntropy()(h, head, nothing)
        loss.backward()
        assert loss == 0
        assert not h.grad.any()


def test_task_weights_go_by_name():
    head, h = CompoundETFHead(64, TASKS), torch.randn(6, 64)
    labels = random_labels(head.tasks, 6)
    left, right = plain(head, h, labels)
    loss = CompoundCrossEntropy(task_weights={"right": 3.0, "left": 0.5})(h, head, labels)
    torch.testing.assert_close(loss, 0.5 * left + 3 * right)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype):
    head = ETFHead(64, 10, scale=4.0, dtype=dtype)
    h, labels = torch.randn(32, 64, dtype=dtype, requires_grad=True), torch.randint(10, (32,))
    loss = CompoundCrossEntropy()(h, head, labels)
    exact = F.cross_entropy(ETFHead(64, 10, scale=4.0)(h.float()), labels)
    torch.testing.assert_close(loss.float(), exact, rtol=0.02, atol=0.02)
    loss.backward()
    assert h.grad.dtype == dtype


def test_under_autocast_the_loss_is_float32():
    head, h = CompoundETFHead(64, TASKS, orientation="hadamard"), torch.randn(8, 64)
    labels = random_labels(head.tasks, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CompoundCrossEntropy()(h, head, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sum(plain(head, h, labels)), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("reduction", ["mean", "task", "none"])
@pytest.mark.parametrize("tasks", [5, [2] * 5, [2, 2, 2, 2, 5]], ids=str)
def test_it_differentiates_twice(tasks, reduction):
    case = HeadCase(9, tasks)
    head, h = case.make(), features(case, 3).requires_grad_()
    criterion = CompoundCrossEntropy(label_smoothing=0.1, reduction=reduction)
    for missing in (False, True):
        labels = random_labels(case.sizes, 3)
        if missing:
            labels[0, 0] = -100
        assert torch.autograd.gradcheck(lambda h, y=labels: criterion(h, head, y), h)
        twice = torch.autograd.gradgradcheck
        assert twice(lambda h, y=labels: criterion(h, head, y), h, fast_mode=True)


def test_losses_of_sure_decisions_are_exact():
    head = ETFHead(40, 10, dtype=torch.float32)
    h = (300 * head.weight[:1]).requires_grad_()  # its probability is 1 to the last digit
    for label, expected in ((0, 0.0), (3, 300 * 10 / 9)):
        loss = CompoundCrossEntropy()(h, head, torch.tensor([label]))
        torch.testing.assert_close(loss.item(), expected, rtol=1e-5, atol=0)


def test_gradients_of_each_sample_by_torch_func():
    case = HeadCase(23, [4, 4, 5])
    head, h, labels = case.make(), features(case, 6), random_labels(case.sizes, 6)
    criterion = CompoundCrossEntropy()

    def loss(one, label):
        return criterion(one.unsqueeze(0), head, label.unsqueeze(0))

    each = torch.func.vmap(torch.func.grad(loss))(h, labels)
    alone = torch.stack([torch.func.grad(loss)(a, b) for a, b in zip(h, labels, strict=True)])
    torch.testing.assert_close(each, alone, **EXACT)
    h.requires_grad_()
    (whole,) = torch.autograd.grad(criterion(h, head, labels), h)
    torch.testing.assert_close(each / 6, whole, **EXACT)


@pytest.mark.parametrize("tasks", [[10, 10], [2, 2, 2, 2, 2, 30]])
def test_it_compiles_whole(tasks):
    head, h = CompoundETFHead(64, tasks), torch.randn(8, 64, requires_grad=True)
    labels = random_labels(head.tasks, 8)
    criterion = CompoundCrossEntropy()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(h, head, labels), criterion(h, head, labels))
    (ours,) = torch.autograd.grad(compiled(h, head, labels), h)
    (eager,) = torch.autograd.grad(criterion(h, head, labels), h)
    torch.testing.assert_close(ours, eager)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.5}, "label_smoothing must be from 0 to 1, got 1.5"),
        ({"reduction": "sum"}, "reduction must be one of mean, task, none; got 'sum'"),
        ({"task_weights": [1, -1]}, "task_weights must be finite and at least 0, got -1"),
        ({"task_weights": {"a": float("nan")}}, "task_weights must be finite"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        CompoundCrossEntropy(**options)


def test_bad_input():
    head, h = CompoundETFHead(64, TASKS), torch.randn(6, 64)
    with pytest.raises(ValueError, match=r"labels has shape \(6,\), expected \(6, 2\)"):
        CompoundCrossEntropy()(h, head, torch.zeros(6, dtype=torch.long))
    with pytest.raises(ValueError, match="labels must be a tensor of integers"):
        CompoundCrossEntropy()(h, head, torch.zeros(6, 2))
    labels = torch.zeros(6, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="task_weights has 3 entries for 2 tasks"):
        CompoundCrossEntropy(task_weights=[1, 1, 1])(h, head, labels)
    with pytest.raises(ValueError, match="expected 0 to 9; samples without a label have -100"):
        CompoundCrossEntropy()(h, head, torch.full((6, 2), 10))


def test_its_options_are_printed():
    text = repr(CompoundCrossEntropy(label_smoothing=0.1))
    assert "label_smoothing=0.1" in text
    assert "reduction=mean" in text


def learned(kind):
    """A learned head in some form, and its linear layers."""
    layers = [nn.Linear(9, 5), nn.Linear(9, 3, bias=False)]
    if kind == "linear":
        return layers[0], layers[:1]
    if kind == "compiled":
        return torch.compile(layers[0], backend="eager"), layers[:1]
    names = ["left", "right"]
    modules = dict(zip(names, layers, strict=True))
    forms = {
        "dict": modules,
        "ModuleDict": nn.ModuleDict(modules),
        "list": layers,
        "ModuleList": nn.ModuleList(layers),
    }
    return forms[kind], layers


@pytest.mark.parametrize("kind", ["linear", "compiled", "dict", "ModuleDict", "list", "ModuleList"])
def test_learned_heads_are_heads(kind):
    head, layers = learned(kind)
    h = torch.randn(6, 9, requires_grad=True)
    labels = [torch.randint(layer.out_features, (6,)) for layer in layers]
    given = dict(zip(["left", "right"], labels, strict=False)) if "ict" in kind else labels
    loss = CompoundCrossEntropy()(h, head, given)
    expected = sum(F.cross_entropy(layer(h), y) for layer, y in zip(layers, labels, strict=True))
    torch.testing.assert_close(loss, expected)
    inputs = [h, *(p for layer in layers for p in layer.parameters())]
    got, wanted = (torch.autograd.grad(value, inputs) for value in (loss, expected))
    torch.testing.assert_close(got, wanted)


def test_one_linear_layer_of_several_tasks_names_them():
    layer, h = nn.Linear(9, 8), torch.randn(6, 9)
    layer.tasks = {"left": 5, "right": 3}
    labels = {"left": torch.randint(5, (6,)), "right": torch.randint(3, (6,))}
    expected = F.cross_entropy(layer(h)[:, :5], labels["left"])
    expected = expected + F.cross_entropy(layer(h)[:, 5:], labels["right"])
    torch.testing.assert_close(CompoundCrossEntropy()(h, layer, labels), expected)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda h: h, "head must be a head of etf_heads, an nn.Linear, .* got function"),
        (nn.Sequential(nn.Linear(9, 5)), "got Sequential: of other classifiers take the logits"),
        ({"a": nn.Linear(9, 5), "b": nn.Linear(8, 5)}, "all of the same features; got Linear"),
        ([nn.ReLU()], "one nn.Linear a task, .* got ReLU"),
        ({}, "got nothing"),
    ],
)
def test_other_heads_are_refused_in_words(head, message):
    with pytest.raises(ValueError, match=message):
        CompoundCrossEntropy()(torch.randn(6, 9), head, torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("tasks", [[10], [10, 10], [2, 2, 2, 2, 7]])
@pytest.mark.parametrize("wrong", [-1, 10, 1_000_000])
def test_labels_out_of_range_are_one_error_whatever_the_path(
    tasks, reduction, requires_grad, wrong
):
    h, head = torch.randn(6, 64, requires_grad=requires_grad), CompoundETFHead(64, tasks)
    labels = torch.zeros(6, len(tasks), dtype=torch.long)
    labels[3, -1] = wrong
    with pytest.raises(ValueError, match="samples without a label have -100"):
        CompoundCrossEntropy(reduction=reduction)(h, head, labels)


class Operations(TorchDispatchMode):
    """Counts operations other than views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_kernels():
    """Operations of PyTorch only."""
    enabled = kernels.is_enabled()
    kernels.enable(False)
    yield
    kernels.enable(enabled)


@pytest.mark.usefixtures("no_kernels")
def test_a_training_step_takes_few_operations():
    h, labels = torch.randn(8, 512, requires_grad=True), torch.randint(100, (8,))
    head = ETFHead(512, 100, scale=3.0)
    for loss, most in [
        (lambda: CompoundCrossEntropy()(h, head, labels), 22),
        (lambda: F.cross_entropy(head(h), labels), 23),
    ]:
        with Operations() as operations:
            loss().backward()
        assert 10 < operations.count <= most
