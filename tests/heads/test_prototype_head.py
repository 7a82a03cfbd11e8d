"""Class means in rows: which are touched, how they are rounded, kept and given back."""

import copy
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from etf_heads import ClassMeanHead, PrototypeHead, load_model, replace_head, save_model
from etf_heads.heads import from_spec, to_spec
from etf_heads.losses import NONL, NTCE
from tests.cases import all_logits
from tests.cases import observed as batch

F64, BF16 = torch.float64, torch.bfloat16
TASKS = {"shape": 4, "colour": 3}


class Touched(TorchDispatchMode):
    """Bytes that operations read and write; of rows that are gathered or scattered, those rows."""

    ROWS = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in self.ROWS:
            moved = result if func is self.ROWS[0] else args[2]
            self.nbytes += 2 * moved.nbytes
        elif not func.is_view:
            for leaf in torch.utils._pytree.tree_leaves((args, kwargs, result)):
                if isinstance(leaf, torch.Tensor):
                    self.nbytes += min(leaf.nbytes, leaf.untyped_storage().nbytes())
        return result


def touched(head, loss):
    """Bytes touched by a step on a batch of 16 samples of eight classes."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(16, head.in_features, generator=generator, requires_grad=True)
    labels = torch.arange(16) // 2 * (head.out_features // 8)
    with Touched() as seen:
        head.observe(h, labels)
        loss(h, head, labels).backward()
    assert h.grad.any()
    return seen.nbytes


@pytest.mark.parametrize("loss", [NONL(), NTCE()], ids=["NONL", "NTCE"])
@pytest.mark.parametrize("dtype", [BF16, torch.float32])
def test_a_step_touches_as_much_for_any_number_of_classes(dtype, loss):
    few, many = (
        touched(PrototypeHead(32, classes, means_dtype=dtype), loss) for classes in (64, 64_000)
    )
    assert many == few < 500_000  # the means of 64,000 classes take 4 or 8 MB
    # So the test can fail: heads that keep the means of all classes go over all of them.
    assert touched(ClassMeanHead(32, 64_000, centred=False), loss) > 64_000 * 32 * 4


@pytest.mark.parametrize(("dtype", "width"), [(BF16, 2), (torch.float32, 4)])
def test_memory(dtype, width):
    head = PrototypeHead(64, 1000, means_dtype=dtype)
    assert not list(head.parameters())
    state = head.state_dict()
    assert sum(t.nbytes for t in state.values()) == width * 64 * 1000 + 4 * 1000 + 8
    assert {t.data_ptr() for t in state.values()} >= {b.data_ptr() for b in head.buffers()} - {0}


def weighted_means(batches, classes, decay):
    """By NumPy, of (features, labels) where labels may be -100."""
    sums, weights = np.zeros((classes, 12)), np.zeros(classes)
    for h, y in batches:
        for k in np.unique(y[y >= 0]):
            sums[k] = decay * sums[k] + h[y == k].sum(0)
            weights[k] = decay * weights[k] + (y == k).sum()
    return sums / np.maximum(weights, 1e-300)[:, None], weights


@pytest.mark.parametrize("decay", [0.7, 1.0])
@pytest.mark.parametrize(("dtype", "digits"), [(F64, 1e-12), (torch.float32, 1e-5), (BF16, 0.05)])
def test_means_are_those_of_numpy(dtype, digits, decay):
    head = PrototypeHead(12, TASKS, decay=decay, means_dtype=dtype, feature_norm=None, dtype=F64)
    batches = {task: [] for task in TASKS}
    for seed in range(6):
        h, labels = batch(TASKS, 20, seed=seed)
        h = h + 2  # means far from zero, where digits count
        labels["shape"][seed::5] = -100
        labels["colour"][:] = -100 if seed == 3 else labels["colour"]
        head.observe(h.view(4, 5, 12), {task: y.view(4, 5) for task, y in labels.items()})
        for task, y in labels.items():
            batches[task].append((h.numpy(), y.numpy()))
    for rows, (task, classes) in zip(head.tasks.slices, TASKS.items(), strict=True):
        means, weights = weighted_means(batches[task], classes, decay)
        np.testing.assert_allclose(head.running.means[rows].double(), means, rtol=digits)
        np.testing.assert_allclose(head.running.counts[rows], weights, rtol=1e-6)
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(head.task_weight(task), 16 * unit, rtol=digits, atol=digits)
    assert int(head.running.updates) == 6


def test_the_class_vectors_are_those_of_class_means_that_are_not_centred():
    whole = ClassMeanHead(12, TASKS, centred=False, feature_norm="unit", scale=16.0, dtype=F64)
    rows = PrototypeHead(12, TASKS, means_dtype=F64, dtype=F64)
    for seed in range(4):
        h, y = batch(TASKS, 9, seed=seed)  # some classes are not seen in some batches
        torch.testing.assert_close(all_logits(rows(h, y)), all_logits(whole(h, y)))
    torch.testing.assert_close(rows.weight, whole.weight)


@pytest.mark.parametrize(("decay", "target"), [(1.0, 2.0), (0.9, 1.01)])
def test_means_in_bfloat16_do_not_stall(decay, target):
    """Hundreds of ones, then another value, one sample a batch: the mean has to get there."""
    head = PrototypeHead(4096, 2, decay=decay, feature_norm=None)
    exact, weight, nearest = 0.0, 0.0, torch.zeros((), dtype=BF16)
    zero = torch.zeros(1, dtype=torch.int64)
    for step in range(1500):
        value = 1.0 if step < 300 else target
        head.observe(torch.full((1, 4096), value), zero)
        weight = decay * weight + 1
        exact += (value - exact) / weight
        nearest += (value - nearest.float()) / weight
    found = head.running.means[0].double()
    away = abs(exact - 1)
    assert abs(float(nearest) - 1) < away / 2 < away  # plain sums do not get half of the way
    assert abs(float(found.mean()) - exact) < away / 20
    assert float(found.std()) < 0.08


def test_a_run_resumes_exactly_from_safetensors(tmp_path):
    head = PrototypeHead(12, TASKS)
    for seed in range(3):
        head.observe(*batch(TASKS, seed=seed, dtype=torch.float32))
    safetensors.torch.save_file(head.state_dict(), tmp_path / "head.safetensors")
    twin = PrototypeHead(12, TASKS)
    twin.load_state_dict(safetensors.torch.load_file(tmp_path / "head.safetensors"))
    for seed in range(3, 9):
        h, y = batch(TASKS, seed=seed, dtype=torch.float32)
        assert torch.equal(all_logits(head(h, y)), all_logits(twin(h, y)))
    for name, kept in head.state_dict().items():
        assert torch.equal(twin.state_dict()[name], kept)


def test_copies_pickles_moves_and_the_meta_device():
    head = PrototypeHead(12, 4)
    h, y = batch(4, dtype=torch.float32)
    fresh = head(h)
    assert not fresh.any()  # no class was seen
    head.observe(h, y)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):  # noqa: S301 (our own)
        assert torch.equal(twin(h), head(h))
        assert repr(twin) == repr(head)
    before = copy.deepcopy(head.running.state_dict())
    for moved in (head.double(), head.half(), head.to(BF16), head.float()):
        for name, kept in before.items():
            assert moved.running.state_dict()[name].dtype == kept.dtype
            assert torch.equal(moved.running.state_dict()[name], kept)
    assert head.to(BF16).weight.dtype == BF16
    head.float()
    meta = PrototypeHead(12, 4, device="meta")
    assert meta(h.to("meta")).is_meta
    meta = meta.to_empty(device="cpu")
    meta.reset_parameters()
    assert torch.equal(meta(h), fresh)
    meta.observe(h, y)
    assert torch.equal(meta(h), head(h))
    assert meta.means_dtype == BF16


def test_it_is_described_saved_and_put_in_place(tmp_path):
    model = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 5))
    replace_head(model, PrototypeHead(12, 500), at="1")
    h, y = batch(500, dim=8, dtype=torch.float32)
    model[1].observe(model[0](h).detach(), y)
    expected = model(h)
    spec = to_spec(model[1])
    assert spec["arguments"]["means_dtype"] == {"dtype": "bfloat16"}
    made = from_spec(spec, 12).to_empty(device="cpu")
    made.load_state_dict(model[1].state_dict())
    assert torch.equal(made(model[0](h)), expected)
    save_model(model, tmp_path / "model.safetensors")
    loaded = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 5))
    load_model(loaded, tmp_path / "model.safetensors")
    assert torch.equal(loaded(h), expected)
    wider = PrototypeHead(12, 500, means_dtype=torch.float32)
    wider.load_state_dict(model[1].state_dict())
    assert torch.equal(wider(model[0](h)), expected)


def test_samples_without_a_label_and_empty_batches_change_nothing():
    head = PrototypeHead(12, 4)
    h, y = batch(4, dtype=torch.float32)
    head.observe(h, y)
    before = copy.deepcopy(head.running)
    head.observe(h, torch.full_like(y, -100))
    head.observe(h[:0], y[:0])
    assert torch.equal(head.running.means, before.means)
    assert torch.equal(head.running.counts, before.counts)
    assert head.running.updates == before.updates + 2


def test_gradients_reach_features_and_not_the_means():
    head = PrototypeHead(12, 40, learn_scale=True, bias=True)
    h, y = batch(40, dtype=torch.float32)
    h.requires_grad_()
    loss = head(h, y).logsumexp(1).sum() + NONL()(h, head, y)
    head.observe(h, y)  # in place, between forward and backward
    loss.backward()
    assert h.grad.isfinite().all()
    assert {name for name, p in head.named_parameters() if p.grad is not None} == {"scale", "bias"}


H, Y = batch(TASKS, dtype=torch.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PrototypeHead(8, 1), "tasks_or_classes=1: a task needs at least 2 classes"),
        (lambda: PrototypeHead(0, 3), "in_features must be a positive integer, got 0"),
        (lambda: PrototypeHead(8, 3, decay=1.5), r"decay must lie in \(0, 1\], 1 for the mean"),
        (
            lambda: PrototypeHead(8, 3, means_dtype=torch.float16),
            r"means_dtype=torch.float16 is not possible: .* torch.bfloat16, torch.float32, torch.f",
        ),
        (
            lambda: PrototypeHead(12, TASKS).observe(H, Y | {"colour": Y["colour"] - 1}),
            "of task 'colour' run from -1 to 1, expected 0 to 2; -1 is not a label; .* have -100",
        ),
        (
            lambda: PrototypeHead(12, TASKS).observe(H, Y | {"shape": Y["shape"] + 1}),
            "of task 'shape' run from 1 to 4, expected 0 to 3",
        ),
        (
            lambda: PrototypeHead(12, TASKS).observe(H * torch.nan, Y),
            "features have NaN or infinite entries: this batch was not taken in",
        ),
        (lambda: PrototypeHead(12, TASKS).observe(H[:, 1:], Y), "features have 11 entries, the"),
        (lambda: PrototypeHead(12, 4).topk(H, 5), "k=5: there are 4 classes"),
    ],
)
def test_bad_input_gets_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_batch_leaves_no_trace():
    head = PrototypeHead(12, TASKS)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(ValueError, match="NaN"):
        head.observe(H * torch.inf, Y)
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())
