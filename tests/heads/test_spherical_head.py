"""Heads of many classes: no logits in losses and searches, and a way out where there is no room."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from etf_heads import ETFHead, SphericalCodeHead, load_model, replace_head, save_model
from etf_heads.codes import DelsarteGoethalsCode, GoldCode, KerdockCode, SimplexCode
from etf_heads.heads import FixedHead, from_spec, to_spec
from etf_heads.losses import NTCE, CompoundCrossEntropy

MILLION = 1_050_624


class LargestStorage(TorchDispatchMode):
    """Records the most bytes of one storage that any operation makes or sees."""

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.nbytes = max(self.nbytes, leaf.untyped_storage().nbytes())
        return result


def batch(head, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(size, head.in_features, generator=generator, requires_grad=True)
    labels = [torch.randint(k, (size,), generator=generator) for k in head.tasks.sizes]
    return h, torch.stack(labels, dim=1)


@pytest.mark.parametrize(
    ("classes", "in_features", "family"),
    [
        (65, 64, SimplexCode),
        (1000, 64, KerdockCode),
        (1000, 128, GoldCode),
        (5000, 64, DelsarteGoethalsCode),
        ({"a": 700, "b": 90}, 100, KerdockCode),
    ],
)
def test_it_chooses_a_code(classes, in_features, family):
    head = SphericalCodeHead(in_features, classes)
    assert isinstance(head.code, family)
    assert (head.scale, type(head.norm).__name__) == (16.0, "UnitFeatureNorm")
    assert not head.state_dict()
    assert not list(head.parameters())


def test_a_code_of_ones_own():
    head = SphericalCodeHead(128, 900, code=KerdockCode(900))
    assert head.code.columns == 64
    with pytest.raises(ValueError, match=r"the code is of .*900.* the head of .*901"):
        SphericalCodeHead(128, 901, code=KerdockCode(900))


def test_signs_stand_where_the_head_stands():
    code = KerdockCode(900, 64)
    head = SphericalCodeHead(64, 900, code=code, device="meta")
    assert head.code.signs.is_meta
    assert not code.signs.is_meta  # which somebody else may use
    assert head(torch.randn(2, 64, device="meta")).shape == (2, 900)


@pytest.mark.parametrize("reduction", ["mean", "task", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_logits_and_makes_none(reduction, smoothing):
    head = SphericalCodeHead(256, {"a": 60_001, "b": 3000})
    h, labels = batch(head)
    labels[2, 0] = labels[4, 1] = -100
    criterion = CompoundCrossEntropy(reduction=reduction, label_smoothing=smoothing)
    with LargestStorage() as seen:
        ours = criterion(h, head, labels)
        (got,) = torch.autograd.grad(ours.sum(), h)
    assert seen.nbytes <= 4 * 2**18  # one tile; logits take 1,512,024
    logits = head(h)
    each = torch.stack(
        [
            F.cross_entropy(logits[t], y, reduction="none", label_smoothing=smoothing)
            for t, y in zip(logits, labels.unbind(1), strict=True)
        ],
        dim=1,
    )
    means = each.sum(0) / (labels != -100).sum(0)
    plain = {"mean": means.sum(), "task": means, "none": each}[reduction]
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(got, torch.autograd.grad(plain.sum(), h)[0])


def test_a_million_classes():
    head = SphericalCodeHead(1024, MILLION)
    h, labels = batch(head, size=4)
    with LargestStorage() as seen:
        loss = CompoundCrossEntropy()(h, head, labels)
        loss.backward()
        values, classes = head.topk(h, 3)
        NTCE()(h, head, labels).backward()
        found = head.topk(head.rows(labels[:, 0]), 1).indices
    assert seen.nbytes <= 2**22  # logits take 16,809,984
    assert torch.equal(found, labels)
    assert values.shape == classes.shape == (4, 3)
    with torch.no_grad():
        logits = head(h)
        torch.testing.assert_close(loss.detach(), F.cross_entropy(logits, labels[:, 0]))
        torch.testing.assert_close(values, logits.topk(3).values)
    for dense in (lambda: head.weight, head.to_linear):
        with pytest.raises(ValueError, match=r"weight has 1,075,838,976 numbers.*rows\(labels\)"):
            dense()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_and_large_scales(dtype):
    exact = SphericalCodeHead(64, 1000, scale=300.0, dtype=torch.float64)
    head = SphericalCodeHead(64, 1000, scale=300.0, dtype=dtype)
    h, labels = batch(head, size=32)
    h = h.detach().to(dtype).requires_grad_()
    loss = CompoundCrossEntropy()(h, head, labels)
    loss.backward()
    wanted = h.detach().double().requires_grad_()
    expected = CompoundCrossEntropy()(wanted, exact, labels)
    expected.backward()
    assert loss.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=4 * eps * 300)
    error = (h.grad.double() - wanted.grad).norm() / wanted.grad.norm()
    assert error < 100 * eps + 1e-5


def test_topk_of_several_tasks_biases_and_shapes():
    head = SphericalCodeHead(16, {"a": 100, "b": 30}, learn_scale=True)
    h = torch.randn(2, 3, 16)
    logits = head(h)
    found = head.topk(h, 4)
    for task, (values, classes) in found.items():
        assert values.shape == (2, 3, 4)
        torch.testing.assert_close(values, logits[task].topk(4).values)
        torch.testing.assert_close(logits[task].gather(-1, classes), values)
    assert torch.equal(head.topk(h, 4, "b").indices, found["b"].indices)
    biased = SphericalCodeHead(16, 100, bias=True)
    nn.init.normal_(biased.bias)
    assert torch.equal(biased.topk(h, 2).indices, biased(h).topk(2).indices)
    simplex = ETFHead(16, 5)
    assert torch.equal(simplex.topk(h, 2).indices, simplex(h).topk(2).indices)
    for k in (0, 31, 1.5):
        with pytest.raises(ValueError, match="k"):
            head.topk(h, k, "b")
    with pytest.raises(ValueError, match="no task 'c'"):
        head.topk(h, 1, "c")


def test_a_bias_takes_the_way_of_logits():
    head = SphericalCodeHead(16, 100, bias=True)
    nn.init.normal_(head.bias)
    h, labels = batch(head)
    ours = CompoundCrossEntropy()(h, head, labels)
    plain = F.cross_entropy(head(h), labels[:, 0])
    torch.testing.assert_close(ours, plain)
    inputs = (h, head.bias)
    for a, b in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(plain, inputs), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_gradients_of_gradients_are_refused_with_the_way_out():
    head = SphericalCodeHead(16, 100)
    h, labels = batch(head)
    with pytest.raises(RuntimeError, match=r"differentiates once.*cross_entropy\(head\(features\)"):
        torch.autograd.grad(CompoundCrossEntropy()(h, head, labels), h, create_graph=True)


def test_transforms_of_torch_func_take_the_logits():
    head = SphericalCodeHead(16, 100)
    h, labels = batch(head)
    criterion = CompoundCrossEntropy(reduction="none")
    pairs = h.detach().unflatten(0, (3, 2)), labels.unflatten(0, (3, 2))
    losses = torch.func.vmap(lambda f, y: criterion(f, head, y))(*pairs)
    torch.testing.assert_close(losses.flatten(0, 1), criterion(h, head, labels).detach())


def test_it_is_copied_described_and_saved(tmp_path):
    model = replace_head(nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 5)), 1000, at="1")
    x = torch.randn(3, 8)
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 (our own)
        assert torch.equal(twin(x), expected)
    head = from_spec(to_spec(model[1]), 64).to_empty(device="cpu")
    assert torch.equal(head(model[0](x)), expected)
    save_model(model, tmp_path / "model.safetensors")
    loaded = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 5))
    load_model(loaded, tmp_path / "model.safetensors")
    assert torch.equal(loaded(x), expected)
    other = SphericalCodeHead(64, 1000, code=DelsarteGoethalsCode(1000, 64))
    with pytest.raises(RuntimeError, match=r"another head.*DelsarteGoethalsCode"):
        other.load_state_dict(model[1].state_dict())


def test_any_head_of_such_a_code_takes_the_same_way():
    head = FixedHead(64, KerdockCode(1000), scale=16.0, feature_norm="unit")
    h, labels = batch(head)
    ours = CompoundCrossEntropy()(h, head, labels)
    torch.testing.assert_close(ours, CompoundCrossEntropy()(h, SphericalCodeHead(64, 1000), labels))
    assert head.streams
