"""Fixed heads made from trained layers, or from features in one pass."""

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

from etf_heads import CompoundETFHead, ETFHead
from etf_heads.geometry import compound_etf, nearest_etf, simplex_etf
from etf_heads.heads import from_features, from_linear
from tests.cases import all_logits, orthonormal
from tests.processes import in_processes

F64 = torch.float64


def linear_with(weight, bias=None):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def test_a_linear_layer_that_is_an_etf_is_reproduced_up_to_what_softmax_does_not_see():
    common = torch.randn(12, dtype=F64)
    weight = 2.5 * simplex_etf(5, 4) @ orthonormal(12, 4).T + common
    linear = linear_with(weight, torch.randn(5, dtype=F64))
    head = from_linear(linear)
    assert type(head) is ETFHead
    assert head.scale == pytest.approx(2.5)
    h = torch.randn(7, 12, dtype=F64)
    torch.testing.assert_close(head(h) + (h @ common)[:, None], linear(h))


@pytest.mark.parametrize("kind", ["mapping", "ModuleDict", "sequence", "ModuleList"])
def test_several_linear_layers(kind):
    frame = 3 * compound_etf([4, 3], 5) @ orthonormal(12, 5).T
    layers = {
        "shape": linear_with(frame[:4], torch.ones(4, dtype=F64)),
        "colour": linear_with(frame[4:]),
    }
    given = {
        "mapping": layers,
        "ModuleDict": nn.ModuleDict(layers),
        "sequence": tuple(layers.values()),
        "ModuleList": nn.ModuleList(layers.values()),
    }[kind]
    head = from_linear(given)
    assert type(head) is CompoundETFHead
    assert head.tasks.names == (("shape", "colour") if kind in ("mapping", "ModuleDict") else None)
    torch.testing.assert_close(head.weight, frame)
    assert head.bias.tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert isinstance(head.bias, nn.Parameter)


def test_the_scale_is_the_least_squares_one():
    weight = torch.randn(5, 12, dtype=F64)
    head = from_linear(linear_with(weight))
    assert head.bias is None
    centred = weight - weight.mean(0)
    torch.testing.assert_close(head.weight / head.scale, nearest_etf(weight))
    errors = [(centred - factor * head.weight).square().sum() for factor in (0.99, 1.0, 1.01)]
    assert errors[1] == min(errors)


def digits():
    """Real features: the pixels of the scans that ship with scikit-learn."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    h = torch.as_tensor(data.data, dtype=torch.float32) / 16
    return h, torch.as_tensor(data.target)


def accuracy(head, h, y):
    with torch.no_grad():
        return (head(h).argmax(-1) == y).float().mean().item()


def test_from_features_gathers_class_means_in_one_pass():
    h, y = digits()
    batches = zip(h.split(100), y.split(100), strict=True)
    head = from_features(batches, 10, scale=0.5)
    means = torch.stack([h[y == k].mean(0) for k in range(10)])
    torch.testing.assert_close(head.weight, 0.5 * nearest_etf(means), rtol=0, atol=1e-5)
    torch.testing.assert_close(head.bias, -head.weight @ means.mean(0), rtol=0, atol=1e-5)
    assert accuracy(head, h, y) > 0.8  # the raw pixels of the digits
    assert from_features([(h, y)], 10, bias=False).bias is None


def test_swapping_the_head_of_a_trained_network_costs_little():
    torch.manual_seed(0)
    h, y = digits()
    body = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
    linear = nn.Linear(32, 10)
    optimizer = torch.optim.Adam([*body.parameters(), *linear.parameters()], lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(linear(body(h)), y).backward()
        optimizer.step()
    features = body(h).detach()
    before = accuracy(linear, features, y)
    assert before > 0.98
    assert accuracy(from_linear(linear), features, y) > before - 0.05
    assert accuracy(from_features([(features, y)], 10), features, y) > before - 0.05


def test_from_features_of_several_tasks_with_a_class_that_does_not_occur():
    h = torch.randn(40, 12, dtype=F64) + 5
    y = {"shape": torch.randint(3, (40,)), "colour": torch.randint(3, (40,))}  # of 4 and 3
    head = from_features([(h, y)], {"shape": 4, "colour": 3})
    assert type(head) is CompoundETFHead
    gram = compound_etf([4, 3])
    torch.testing.assert_close(head.weight @ head.weight.T, gram @ gram.T)
    assert all_logits(head(h)).isfinite().all()


def gather(rank, place, results):
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    h, y = digits()
    # Unequal numbers of batches: only the end is exchanged.
    parts = (
        [(h[:100], y[:100])]
        if rank
        else list(zip(h[100:].split(99), y[100:].split(99), strict=True))
    )
    head = from_features(parts, 10)
    distributed.destroy_process_group()
    torch.save(head.state_dict(), f"{results}/{rank}")


def test_processes_with_unequal_shares_get_the_same_head(tmp_path):
    h, y = digits()
    in_processes(gather, tmp_path / "rendezvous", tmp_path)
    expected = from_features([(h, y)], 10).state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / str(rank), weights_only=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_linear(nn.ReLU()), "linears must be nn.Linear layers, got ReLU"),
        (lambda: from_linear([nn.Linear(8, 3), nn.Linear(9, 3)]), r"in_features are \[8, 9\]"),
        (lambda: from_linear({"a": nn.Linear(8, 1)}), r"linears\['a'\]=1: a task needs at least 2"),
        (lambda: from_linear([]), "linears is empty"),
        (lambda: from_linear(nn.Linear(3, 10)), "in_features=3 is too small .* 9 needed"),
        (
            lambda: from_linear(linear_with(torch.ones(3, 1) * torch.rand(8))),
            "the same weight for all classes",
        ),
        (lambda: from_features([], 3), "batches is empty: no features to gather class means from"),
        (lambda: from_features([(torch.ones(2, 1), torch.zeros(2).long())], 3), "is too small"),
    ],
)
def test_bad_input_gets_a_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
