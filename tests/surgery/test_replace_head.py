"""Effects of replace_head on any model: kept, passed on, refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etf_heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
    SphericalCodeHead,
    replace_head,
)
from etf_heads.heads import from_linear


def network(last=None, **options):
    torch.manual_seed(0)
    last = nn.Linear(16, 5) if last is None else last
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), last).to(**options)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("given", "kind", "classes"),
    [
        (None, ETFHead, 5),
        (7, ETFHead, 7),
        (np.int64(7), ETFHead, 7),
        ([4, 3], CompoundETFHead, 7),
        ({"a": 4, "b": 3}, CompoundETFHead, 7),
        (lambda d: NearestETFHead(d, 4), NearestETFHead, 4),
        (lambda d: NearestETFHead(d, {"a": 4, "b": 3}), NearestETFHead, 7),
        (lambda d: CorrelatedETFHead(d, [2, 2], torch.tensor([[9, 1], [1, 9]])), None, 4),
        (ClassMeanHead(16, 30), ClassMeanHead, 30),
        (nn.Linear(16, 3), nn.Linear, 3),
    ],
)
def test_what_a_head_is_given_by(given, kind, classes):
    model = network()
    assert replace_head(model, given, at="2") is model
    head = getattr(model[2], "head", model[2])
    assert isinstance(head, kind or CorrelatedETFHead)
    h, x = model[1](model[0](torch.eye(8))), torch.eye(8)
    ours, expected = model(x), head(h)
    assert type(ours) is type(expected)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert head.out_features == classes


def test_options_reach_the_head():
    options = {"feature_norm": "batch", "scale": 3.0, "orientation": "random:4", "bias": True}
    head = replace_head(network(), 4, at="2", **options)[2]
    assert repr(head) == repr(ETFHead(16, 4, **options))
    with pytest.raises(TypeError, match="unexpected keyword argument 'temperature'"):
        replace_head(network(), 4, at="2", temperature=2.0)
    tasks = replace_head(network(), [15, 8], at="2", cross_task="independent")
    assert [z.shape[1] for z in tasks(torch.randn(3, 8))] == [15, 8]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [None, [3, 2], lambda d: ClassMeanHead(d, 5)])
def test_dtype_and_mode_are_kept(dtype, given):
    for training in (True, False):
        model = network(dtype=dtype).train(training)
        head = replace_head(model, given, at="2")[2]
        head = getattr(head, "head", head)
        assert head.weight.dtype == dtype
        assert head.training is training
        logits = model(torch.randn(4, 8, dtype=dtype))
        assert (logits if isinstance(logits, torch.Tensor) else logits[0]).dtype == dtype


def test_device_is_kept():
    model = replace_head(network(device="meta"), [3, 2], at="2", orientation="random:1")
    assert model[2].head.weight.is_meta
    assert model(torch.empty(4, 8, device="meta"))[0].is_meta


def test_a_training_step_moves_the_backbone_and_not_the_head():
    model = replace_head(network(), {"a": 3, "b": 2}, at="2", feature_norm="batch")
    assert not list(model[2].parameters())
    head, body = model[2].head.weight, model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 8), {"a": torch.randint(3, (32,)), "b": torch.randint(2, (32,))}
    losses = []
    for _ in range(20):
        logits = model(x)
        loss = sum(F.cross_entropy(logits[task], y[task]) for task in y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(model[2].head.weight, head)
    assert not torch.equal(model[0].weight, body)


def test_aligned_is_the_nearest_head():
    for last in (nn.Linear(16, 5), nn.Linear(16, 5, bias=False)):
        model, x = network(last), torch.randn(4, 8)
        features = model[1](model[0](x))
        expected = from_linear(last)(features)
        assert torch.equal(replace_head(model, at="2", aligned=True)(x), expected)
    with torch.no_grad():  # a trained classifier that is an ETF already stays what it is
        etf = nn.Linear(16, 5, bias=False)
        etf.weight.copy_(ETFHead(16, 5, scale=3.0, orientation="random:2").weight)
    model, x = network(etf), torch.randn(4, 8)
    before = model(x)
    torch.testing.assert_close(replace_head(model, 5, at="2", aligned=True)(x), before)


def test_aligned_convolution_keeps_its_bias():
    model, x = convolutional(), torch.randn(2, 3, 8, 8)
    old = model[2]
    replace_head(model, at="2", aligned=True)
    linear = nn.Linear(16, 5)
    linear.weight, linear.bias = nn.Parameter(old.weight.flatten(1)), old.bias
    torch.testing.assert_close(model[2].head.weight, from_linear(linear).weight)
    assert torch.equal(model[2].head.bias, old.bias)
    assert model(x).shape == (2, 5)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [(nn.Conv1d, (2, 16, 5)), (nn.Conv2d, (2, 16, 5, 4)), (nn.Conv3d, (2, 16, 5, 4, 3))],
)
def test_convolutions_of_every_dimension(conv, shape):
    x, old = torch.randn(shape), conv(16, 5, 1, bias=False)
    model = replace_head(nn.Sequential(old), at="0")
    weight = model[0].head.weight
    with torch.no_grad():
        old.weight.copy_(weight.view_as(old.weight))
    torch.testing.assert_close(model(x), old(x), rtol=0, atol=1e-5)
    a, b = replace_head(nn.Sequential(old), [3, 2], at="0")(x)
    assert (a.shape[1], b.shape[1]) == (3, 2)
    assert a.shape[2:] == shape[2:]


def test_several_classifiers_get_heads_of_their_own():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(8, 5), nn.Linear(6, 5)

        def forward(self, x):
            return self.left(x), self.right(x[:, :6])

    model = replace_head(Two(), {"a": 3, "b": 2}, at=["left", "right"])
    assert [list(z) for z in model(torch.randn(4, 8))] == [["a", "b"], ["a", "b"]]
    with pytest.raises(ValueError, match="Two has 2 classifiers, left, right: give a function"):
        replace_head(Two(), nn.Linear(8, 5), at=["left", "right"])
    with pytest.raises(ValueError, match="got heads of different tasks"):
        replace_head(Two(), lambda d: CompoundETFHead(d, [3, d - 4]), at=["left", "right"])


def test_one_layer_in_two_places_is_one_head_in_two_places():
    shared = nn.Linear(8, 8)
    model = replace_head(nn.Sequential(shared, nn.Tanh(), shared), at="2")
    assert model[0] is model[2]
    assert isinstance(model[0], ETFHead)


def test_a_relu_behind_the_classifier_is_taken_away():
    model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(inplace=True))
    assert replace_head(model, at="0")(torch.randn(20, 8)).min() < 0
    model = nn.Sequential(nn.Linear(8, 5), nn.Tanh())  # not what follows by design
    assert isinstance(replace_head(model, at="0")[1], nn.Tanh)


def test_task_outputs_survive_what_people_do_with_modules():
    model = replace_head(network(), {"a": 3, "b": 2}, at="2").eval()
    x = torch.randn(4, 8)
    expected = model(x)
    wrapped = nn.Sequential(nn.Identity(), model)
    compiled = torch.compile(model, backend="aot_eager")
    exported = torch.export.export(model, (x,)).module()
    unpickled = pickle.loads(pickle.dumps(model))  # noqa: S301 (our own bytes)
    for twin in (copy.deepcopy(model), unpickled, wrapped, compiled, exported):
        torch.testing.assert_close(twin(x), expected)


def test_replacing_again_forgets_the_tasks():
    model = replace_head(network(), {"a": 3, "b": 2}, at="2")
    for _ in range(2):
        assert list(replace_head(model, {"c": 3, "d": 2}, at="2")(torch.randn(4, 8))) == ["c", "d"]
    assert replace_head(model, 4, at="2")(torch.randn(4, 8)).shape == (4, 4)
    assert type(model[2]) is ETFHead


def test_class_counts_follow_where_they_were_right():
    model = network()
    model.num_classes, model.num_labels = 5, 99
    replace_head(model, 7, at="2")
    assert (model.num_classes, model.num_labels) == (7, 99)


def tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
            self.out.weight = self.embedding.weight

    return Tied()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: replace_head(network(), 10**6, at="2"),
            "'2' with 16 features: in_features=16 is too small for 1,000,000 classes.* Other heads",
        ),
        (
            lambda: replace_head(network(), {"species": 12, "attribute": 9}, at="2"),
            r"'2' with 16 features.*: 19 needed; or use cross_task='independent'\. Other heads",
        ),
        (lambda: replace_head(network(), {"a": 1}, at="2"), r"tasks\['a'\]=1: a task needs at l"),
        (lambda: replace_head(network(), "seven", at="2"), "tasks must map task names to class c"),
        (lambda: replace_head(network(), 0, at="2"), "out_features must be a positive integer"),
        (lambda: replace_head(network(), 2.5, at="2"), "out_features must be a positive integer"),
        (
            lambda: replace_head(network(nn.Linear(16, 1)), at="2"),
            "out_features=1: a task needs at least 2 classes",
        ),
        (
            lambda: replace_head(network(), ETFHead(16, 5), at="2", scale=2.0),
            "scale: options are for heads made here from class counts, not for your own ETFHead",
        ),
        (
            lambda: replace_head(network(), at="2", aligned=True, scale=2.0),
            "scale: options are for heads made here from class counts, not for aligned=True",
        ),
        (
            lambda: replace_head(network(), 4, at="2", aligned=True),
            "aligned=True starts from the 5 learned classes of '2': leave head_or_tasks out",
        ),
        (
            lambda: replace_head(network(ETFHead(16, 5)), at="2", aligned=True),
            "aligned=True needs a learned classifier; '2' is ETFHead",
        ),
        (
            lambda: replace_head(network(), ETFHead(8, 5), at="2"),
            "the classifier '2' has 16 features, the head takes 8",
        ),
        (lambda: replace_head(network(), lambda d: d, at="2"), "made 16 of 16 features: no module"),
        (
            lambda: replace_head(tied(), at="out"),
            "'out' shares its weight with 'embedding.weight': .*Untie them first",
        ),
        (
            lambda: replace_head(network()),
            "Sequential is not a classifier of timm, .*such as at='2'",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_model_is_unchanged():
    model = network()
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match="too small"):
        replace_head(model, [12, 9], at="2")
    assert dict(model.named_modules()) == before


def test_more_classes_than_features_get_a_spherical_code():
    head = replace_head(network(), 200, at="2")[2]
    assert isinstance(head, SphericalCodeHead)
    assert head.out_features == 200
    assert replace_head(network(), 17, at="2")[2].scale == 1.0  # d + 1: still a simplex
    several = replace_head(network(), {"species": 100, "genus": 9}, at="2", scale=8.0)
    assert isinstance(several[2].head, SphericalCodeHead)
    assert several[2].head.scale == 8.0


def test_a_hundred_thousand_classes():
    model = nn.Sequential(nn.Linear(8, 1024), nn.Linear(1024, 5))
    replace_head(model, 100_000, at="1")
    logits = model(torch.randn(2, 8))
    assert logits.shape == (2, 100_000)
    values, classes = model[1].topk(model[0](torch.randn(2, 8)), 1)
    assert values.shape == classes.shape == (2, 1)
    assert sum(p.numel() for p in model[1].parameters()) == 0
