"""The laws of every loss with every head: a table of losses, a table of heads, a list of laws."""

import warnings
from itertools import cycle

import numpy as np
import pytest
import torch

from tests.cases import HeadCase, features
from tests.losses.loss_cases import (
    HEADS,
    LOSSES,
    Learned,
    covering,
    expected,
    parameters,
    random_labels,
)

EXACT = {"rtol": 1e-10, "atol": 1e-10}
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)
covered = pytest.mark.parametrize(("loss", "case"), list(covering(3)), ids=str)
# What depends on the reduction and the dtype and not on the kind of head: fixed, and learned.
few_heads = pytest.mark.parametrize("case", [HEADS[6], HEADS[8], HEADS[-1]], ids=str)
two_heads = pytest.mark.parametrize("case", [HEADS[8], HEADS[-4]], ids=str)


def batch(case, *shape, missing=0.0, dtype=torch.float64, **options):
    head = case.make(dtype=dtype, **options)
    h = features(case, *shape, dtype=dtype).requires_grad_()
    return head, h, random_labels(case.sizes, *shape, missing=missing)


@covered
def test_it_is_what_numpy_says(loss, case):
    for shape, missing in [((11,), 0.4), ((2, 3, 2), 0.0)]:
        head, h, labels = batch(case, *shape, missing=missing)
        wanted = expected(loss, head, h, labels.flatten(0, -2))
        losses = loss.make(reduction="none")(h, head, labels)
        assert losses.shape == labels.shape
        np.testing.assert_allclose(losses.detach().flatten(0, -2), wanted, **EXACT)
        counts = (labels != -100).flatten(0, -2).sum(0).clamp(min=1).numpy()
        means = loss.make(reduction="task")(h, head, labels).detach()
        np.testing.assert_allclose(means, wanted.sum(0) / counts, **EXACT)


@few_heads
@every_loss
def test_weights_and_reductions_are_parts_of_the_mean(loss, case):
    head, h, labels = batch(case, 9, missing=0.2)
    weights = [0.5 + t for t in range(len(case.sizes))]
    mean, task, none = (
        loss.make(reduction=r, task_weights=weights)(h, head, labels)
        for r in ("mean", "task", "none")
    )
    plain = loss.make(reduction="none")(h, head, labels)
    torch.testing.assert_close(none, plain * torch.tensor(weights), **EXACT)
    counts = (labels != -100).sum(0).clamp(min=1)
    torch.testing.assert_close(task, none.sum(0) / counts, **EXACT)
    torch.testing.assert_close(mean, task.sum(), **EXACT)


@covered
def test_gradients(loss, case):
    head, h, labels = batch(case, 4, missing=0.2)
    if case.options.get("feature_norm") == "batch":
        head.eval()  # gradcheck evaluates often, and each batch would be counted
        head.norm.running_var.uniform_(0.5, 2)
    leaves = [p for p in parameters(head) if p.ndim < 2 or isinstance(case, Learned)]
    criterion = loss.make(reduction="none")

    def value(h, *_):
        return criterion(h, head, labels).sum(0)

    assert torch.autograd.gradcheck(value, (h, *leaves), atol=1e-6, fast_mode=True)


@few_heads
@every_loss
def test_the_mean_has_the_gradient_of_the_mean(loss, case):
    head, h, labels = batch(case, 9, missing=0.2)
    inputs = [h, *parameters(head)]
    labelled = (labels != -100).double()
    weights = labelled / labelled.sum(0).clamp(min=1)
    each = (loss.make(reduction="none")(h, head, labels) * weights).sum()
    mean = loss.make()(h, head, labels)
    ours, theirs = (torch.autograd.grad(v, inputs, allow_unused=True) for v in (mean, each))
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **EXACT)


@few_heads
@every_loss
def test_samples_without_a_label_might_as_well_not_be_there(loss, case):
    head, h, labels = batch(case, 12, missing=0.5)
    means = loss.make(reduction="task")(h, head, labels)
    for t, column in enumerate(labels.unbind(1)):
        own = column != -100
        alone = loss.make(reduction="task")(h[own], head, labels[own])[t]
        torch.testing.assert_close(means[t], alone, **EXACT)


@few_heads
@every_loss
def test_a_batch_without_labels_counts_as_zero_and_moves_nothing(loss, case):
    for size in (6, 0):
        head, h, _ = batch(case, size)
        nothing = torch.full((size, len(case.sizes)), -100)
        value = loss.make()(h, head, nothing)
        (gradient,) = torch.autograd.grad(value, h)
        assert value == 0
        assert not gradient.any()


@two_heads
@every_loss
@pytest.mark.parametrize("wrong", [-1, 1000])
def test_labels_out_of_range_are_refused(loss, case, wrong):
    head, h, labels = batch(case, 5)
    labels[2, -1] = wrong
    with pytest.raises(ValueError, match="samples without a label have -100"):
        loss.make()(h, head, labels)


@two_heads
@every_loss
def test_features_of_another_size_are_refused(loss, case):
    head, h, labels = batch(case, 5)
    with pytest.raises(ValueError, match=f"the head takes {case.in_features}"):
        loss.make()(torch.cat([h, h], 1), head, labels)


@two_heads
@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_double(loss, case, dtype):
    head, h, labels = batch(case, 32, dtype=dtype, missing=0.2)
    h = torch.nn.Parameter(h.detach() / 4)
    value = loss.make()(h, head, labels)
    exact = case.make()
    if isinstance(case, Learned):
        exact = torch.nn.ModuleList(exact) if isinstance(exact, list) else exact
        given = torch.nn.ModuleList(head) if isinstance(head, list) else head
        exact.load_state_dict(given.state_dict())
    wanted = loss.make()(h.double(), exact, labels)
    close = {"rtol": 1e-4, "atol": 1e-4} if loss.in_float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(value.double(), wanted, **close)
    assert value.dtype == (torch.float32 if loss.in_float32 else value.dtype)
    value.backward()
    assert h.grad.dtype == dtype
    assert h.grad.isfinite().all()


@two_heads
@every_loss
def test_under_autocast_the_loss_is_float32(loss, case):
    head, h, labels = batch(case, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss.make()(h, head, labels)
        value.backward()
    assert value.dtype == torch.float32
    near = 1e-6 if loss.in_float32 else 0.05
    torch.testing.assert_close(value, loss.make()(h, head, labels), rtol=near, atol=near)
    assert h.grad.dtype == torch.float32


def compiled_pairs():
    """Losses in turn with logits and without; another value of an option is the same program."""
    seen = set()
    two_tasks = HeadCase(7, [2, 3], "tiled", {"bias": True})  # traced one by one: two are enough
    heads, backends = cycle([two_tasks, HEADS[11]]), cycle(["aot_eager", "eager", "eager"])
    for loss, case, backend in zip(LOSSES, heads, backends, strict=False):
        program = (loss.kind, *loss.options)
        often = [pytest.mark.slow] if program in seen else []
        yield pytest.param(loss, case, backend, marks=often)
        if backend == "eager":  # the graph of the backward pass takes a second more
            yield pytest.param(loss, case, "aot_eager", marks=pytest.mark.slow)
        seen.add(program)


@pytest.mark.parametrize(("loss", "case", "backend"), list(compiled_pairs()), ids=str)
def test_it_compiles_whole(loss, case, backend):
    torch.compiler.reset()
    head, h, labels = batch(case, 9, dtype=torch.float32)
    criterion = loss.make()
    compiled = torch.compile(criterion, fullgraph=True, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.utils.checkpoint under a compiler
        ours, eager = compiled(h, head, labels), criterion(h, head, labels)
        torch.testing.assert_close(ours, eager)
        torch.testing.assert_close(torch.autograd.grad(ours, h), torch.autograd.grad(eager, h))


@every_loss
def test_a_fixed_head_and_its_linear_layer_have_the_same_loss(loss):
    for case in (HeadCase(24, 5, "hadamard", {"scale": 3.0}), HeadCase(31, [2, 3, 5, 7], "tiled")):
        head, h, labels = batch(case, 9, missing=0.2)
        linear = head.to_linear()
        if isinstance(linear, torch.nn.ModuleDict):
            linear = list(linear.values())
        fixed, learned = (loss.make()(h, given, labels) for given in (head, linear))
        torch.testing.assert_close(fixed, learned, **EXACT)


@every_loss
def test_its_options_are_printed(loss):
    text = repr(loss.make())
    for name, value in loss.options.items():
        assert f"{name}={value:g}" in text
    assert "reduction=mean" in text
