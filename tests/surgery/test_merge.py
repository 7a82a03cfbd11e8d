"""Models with fixed heads become plain ones, with the same logits, or stay as they are."""

import pytest
import torch
from torch import nn

from etf_heads import CompoundETFHead, ETFHead, NearestETFHead, SphericalCodeHead, replace_head
from etf_heads.surgery import HeadAdapter, merge
from tests.cases import EVERY_HEAD, all_logits, features


def network(classes=5, bias=True, last=None):
    last = nn.Linear(16, classes, bias=bias) if last is None else last
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), last)


@pytest.mark.parametrize("case", EVERY_HEAD, ids=str)
def test_every_head_merges_or_says_why_not(case):
    head = case.make()
    x = features(case, 4)
    with torch.no_grad():
        head(3 * x + 1)  # running statistics of their own
        model = nn.Sequential(nn.Identity(), head).eval()
        before = all_logits(model(x))
        if case.options.get("feature_norm") in ("layer", "unit"):
            with pytest.raises(ValueError, match=r"fixed head at '1': .*does not fold into"):
                merge(model)
            assert model[1] is head
            return
        assert merge(model) is model
        plain = nn.Linear(case.in_features, head.out_features, dtype=torch.float64)
        plain.load_state_dict(model[1].state_dict(), strict=True)
        assert type(model[1]) is nn.Linear
        assert not model[1].training
        torch.testing.assert_close(plain(x), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tasks", [5, {"a": 3, "b": 2}])
@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_convolutions_become_convolutions(layer, tasks):
    dims = int(layer.__name__[4])
    build = lambda: nn.Sequential(layer(8, 5, 1), nn.Flatten(2))  # noqa: E731
    model = replace_head(build(), tasks, at="0", feature_norm="batch")
    x = torch.randn(4, 8, *[3] * dims)
    model(x + 2)
    before = model.eval()(x)
    plain = build()
    plain.load_state_dict(merge(model).state_dict(), strict=True)
    assert type(model[0]) is layer
    after = model(x)
    assert type(after) is type(before)
    if isinstance(before, dict):
        for task in before:
            torch.testing.assert_close(after[task], before[task], rtol=0, atol=1e-5)
        before = torch.cat(list(before.values()), 1)
    torch.testing.assert_close(plain(x), before, rtol=0, atol=1e-5)


def test_a_layer_in_several_places_stays_one():
    shared = nn.Linear(16, 5)
    model = nn.ModuleDict({"first": shared, "second": shared, "body": nn.Linear(8, 16)})
    replace_head(model, 5, at="first")
    merge(model)
    assert model["first"] is model["second"]
    assert type(model["first"]) is nn.Linear


def test_a_bias_is_made_or_left_out():
    x = torch.randn(3, 8)
    model = replace_head(network(bias=False), 5, at="2")
    before = model(x)
    network(bias=False).load_state_dict(merge(model, bias=False).state_dict(), strict=True)
    torch.testing.assert_close(model(x), before)
    model = replace_head(network(), 5, at="2", bias=True)
    merge(model, bias=False)  # it is zero still
    model = replace_head(network(), 5, at="2", bias=True)
    nn.init.ones_(model[2].bias)
    with pytest.raises(ValueError, match="bias=False loses a bias"):
        merge(model, bias=False)
    assert isinstance(model[2], ETFHead)


def test_all_or_nothing():
    model = nn.ModuleList([ETFHead(8, 4), SphericalCodeHead(8, 20)])
    with pytest.raises(ValueError, match="fixed head at '1': UnitFeatureNorm does not fold"):
        merge(model)
    assert isinstance(model[0], ETFHead)


def test_what_has_nothing_to_merge_says_so():
    with pytest.raises(ValueError, match="Sequential has no fixed head"):
        merge(network())
    with pytest.raises(ValueError, match=r"head\.to_linear"):
        merge(ETFHead(8, 3))


def test_dtype_and_training_mode_stay():
    model = replace_head(network().bfloat16(), lambda d: NearestETFHead(d, 5), at="2")
    model[2].observe(torch.randn(20, 16), torch.arange(20) % 5)
    merge(model)
    assert model[2].training
    assert model[2].weight.dtype == torch.bfloat16


def test_to_linear_with_a_bias():
    x = torch.randn(3, 8)
    head = CompoundETFHead(8, {"a": 3, "b": 2})
    for bias in (None, True, False):
        linears = head.to_linear(bias=bias)
        assert all((layer.bias is not None) == bool(bias) for layer in linears.values())
        torch.testing.assert_close(linears["b"](x), head(x)["b"])


def test_an_adapter_by_itself_merges():
    model = network(last=HeadAdapter(CompoundETFHead(16, [3, 2])))
    x = torch.randn(3, 8)
    before = model(x)
    torch.testing.assert_close(merge(model)(x), before)
