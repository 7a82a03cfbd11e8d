"""Measures given a module: by its own forward, or refused where class vectors are not enough."""

import copy
import pickle

import pytest
import torch
from collapse_reference import disagreement
from torch import nn

from etf_heads import CompoundETFHead, ETFHead
from etf_heads.collapse import (
    ManyClassCollapse,
    MultiSourceCollapse,
    MultiTaskCollapse,
    RegressionCollapse,
    SingleTaskCollapse,
)

REFUSED = r"normalises its features .*update the measure with head.prepare\(features\) and pass"


def separated(norm):
    """A head that classifies every sample, which its class vectors on raw features do not."""
    torch.manual_seed(0)
    head = ETFHead(8, 4, feature_norm=norm)
    labels = torch.arange(400) % 4
    features = head.weight[labels] + 0.02 * torch.randn(400, 8)
    features[:, 0] = features[:, 0] * 0.05 + 20
    for _ in range(200):
        head(features)
    return head, features, labels


@pytest.mark.parametrize("norm", ["batch", "unit", "layer", nn.BatchNorm1d(8, affine=False)])
def test_decisions_are_those_of_the_module(norm):
    head, features, labels = separated(norm)
    measure = SingleTaskCollapse(8, 4)
    measure.update(features, labels)
    decisions = measure.decisions(head)
    decisions.update(features, labels)
    values = decisions.compute()
    hits = (copy.deepcopy(head).eval()(features).argmax(1) == labels).double().mean()
    assert values["classifier_accuracy"] == float(hits)
    assert values["centre_accuracy"] == 1.0
    assert values["nc4"] == 1 - float(hits)
    if isinstance(head.norm, nn.BatchNorm1d):  # the other norms mix the large entry into all
        assert values == {"nc4": 0.0, "centre_accuracy": 1.0, "classifier_accuracy": 1.0}


def test_decisions_leave_the_module_alone():
    head, features, labels = separated("batch")
    measure = SingleTaskCollapse(8, 4)
    measure.update(features, labels)
    decisions = measure.decisions(head)
    head.norm.running_mean.zero_()  # the decisions are of the moment that they were made
    decisions.update(features, labels)
    assert decisions.compute()["nc4"] == 0.0
    assert head.training
    assert not head.norm.running_mean.any()
    assert not list(decisions.parameters())
    assert not decisions.state_dict()
    twin = pickle.loads(pickle.dumps(decisions))  # noqa: S301
    twin.update(features, labels)
    assert twin.compute()["nc4"] == 0.0


@pytest.mark.parametrize("norm", ["batch", "layer", "unit", nn.LayerNorm(8)])
def test_statistics_of_raw_features_refuse_a_head_that_normalises(norm):
    head, features, labels = separated(norm)
    tasks = {"a": 4, "b": 3}
    compound = CompoundETFHead(8, tasks, feature_norm=norm)
    both = {"a": labels, "b": labels % 3}
    single, many = SingleTaskCollapse(8, 4, reservoir=10), ManyClassCollapse(8, 4)
    for measure in (single, many):
        measure.update(features, labels)
        with pytest.raises(ValueError, match=REFUSED):
            measure.compute(head)
    multi, sources = MultiTaskCollapse(8, tasks), MultiSourceCollapse(8, tasks)
    multi.update(features, both)
    sources.update(dict.fromkeys(tasks, features), both)
    for measure in (multi, sources):
        with pytest.raises(ValueError, match=REFUSED):
            measure.compute(compound)
        with pytest.raises(ValueError, match=REFUSED):
            measure.compute([head, nn.Linear(8, 3)])
    regression = RegressionCollapse(8, 4)
    regression.update(features, torch.randn(400, 4))
    with pytest.raises(ValueError, match=REFUSED):
        regression.compute(head)
    with pytest.raises(ValueError, match=REFUSED):  # a bias of one's own leaves no forward
        single.decisions(head, torch.zeros(4))


def test_the_way_out_measures_features_as_class_vectors_meet_them():
    head, features, labels = separated("batch")
    head.eval()
    prepared = head.prepare(features)
    measure = SingleTaskCollapse(8, 4)
    measure.update(prepared, labels)
    plain = nn.Linear(8, 4, bias=False)
    plain.weight.data = head.weight
    assert measure.compute(head.weight) == measure.compute(plain)
    decisions = measure.decisions(head.weight)
    decisions.update(prepared, labels)
    assert decisions.compute()["classifier_accuracy"] == 1.0
    none = ETFHead(8, 4)
    assert measure.compute(none) == measure.compute(none.weight)  # nothing to prepare


@pytest.mark.parametrize("names", [("a", "b"), None])
def test_decisions_of_a_compound_head(names):
    torch.manual_seed(1)
    tasks = dict(zip(names, (4, 3), strict=True)) if names else (4, 3)
    head = CompoundETFHead(8, tasks, bias=True, feature_norm="batch")
    nn.init.normal_(head.bias)
    features, labels = torch.randn(200, 8) * 3 + 1, torch.randint(3, (200, 2))
    for _ in range(100):
        head(features)
    head.eval()
    linears = head.to_linear()  # the normalisation folded in: an independent way
    measure, sources = MultiTaskCollapse(8, tasks), MultiSourceCollapse(8, tasks)
    measure.update(features, labels)
    sources.update([features, features], list(labels.T))
    single, multi = measure.decisions(head), sources.decisions(head)
    single.update(features, labels)
    multi.update([features, features], list(labels.T))
    for t, (name, linear) in enumerate(linears.items()):
        expected = disagreement(
            features.numpy(),
            labels[:, t].tolist(),
            linear.weight.detach().numpy(),
            linear.bias.detach().numpy(),
        )
        assert single.compute()[f"s_nc5/{name}"] == expected
        assert multi.compute()[f"m_nc4/{name}"] == expected


def test_float64_features_and_a_float32_head_of_another_mode():
    head, features, labels = separated("batch")
    measure = SingleTaskCollapse(8, 4)
    measure.update(features.double(), labels)
    decisions = measure.decisions(head)
    decisions.update(features.double(), labels)
    decisions.update(features.bfloat16().double(), labels)
    assert decisions.compute()["classifier_accuracy"] == 1.0


class Wrong(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, :2]


def test_a_module_whose_forward_gives_no_logits():
    _, features, labels = separated(None)
    measure = SingleTaskCollapse(8, 4)
    measure.update(features, labels)
    decisions = measure.decisions(Wrong(8, 4))
    with pytest.raises(ValueError, match=r"logits of shape \(400, 2\) for task '0', expected"):
        decisions.update(features, labels)
