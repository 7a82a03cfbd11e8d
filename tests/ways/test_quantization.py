"""Weights of the rest in int8: a fixed head has none to round, and stays exact on its features."""

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

from etf_heads import replace_head
from tests.cases import all_logits
from tests.ways.networks import MAKERS, Network, batch, train

pytestmark = pytest.mark.filterwarnings("ignore:.*(quantiz|torch.ao|reduce_range):Warning")


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_the_head_is_exact_and_the_logits_are_near(kind):
    network = Network(kind)
    with torch.enable_grad():
        train(network, torch.optim.SGD(network.parameters(), lr=0.1))
    network.eval()
    small = quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in small.modules())
    assert repr(small.head) == repr(network.head)
    assert torch.equal(small.head.weight, network.head.weight)

    images, _ = batch()
    features = small.backbone(images)
    assert torch.equal(all_logits(small(images)), all_logits(network.head(features)))
    rounding = features - network.backbone(images)
    assert 0 < rounding.norm() < 0.02 * features.norm()
    exact, rounded = all_logits(network(images)), all_logits(small(images))
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05 * exact.abs().max().item())


@torch.no_grad()
def test_tasks_of_a_replaced_classifier_come_out_by_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.Linear(24, 10))
    replace_head(model, {"a": 5, "b": 5}, at="3").eval()
    small = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    images, _ = batch()
    exact, rounded = model(images), small(images)
    assert list(rounded) == ["a", "b"]
    for task in exact:
        torch.testing.assert_close(rounded[task], exact[task], rtol=0, atol=0.02)
