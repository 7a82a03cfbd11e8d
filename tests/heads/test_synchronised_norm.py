"""nn.SyncBatchNorm.convert_sync_batchnorm on models with a head that normalises."""

import copy

import pytest
import torch
from torch import nn

from etf_heads import ClassMeanHead, CompoundETFHead, ETFHead, NearestETFHead
from etf_heads.heads import from_spec, same_head, to_spec
from tests.cases import all_logits

MAKERS = {
    "one": lambda norm: ETFHead(6, 3, feature_norm=norm, bias=True, dtype=torch.float64),
    "several": lambda norm: CompoundETFHead(6, [3, 2], feature_norm=norm, dtype=torch.float64),
    "nearest": lambda norm: NearestETFHead(6, [3, 2], feature_norm=norm, dtype=torch.float64),
    "means": lambda norm: ClassMeanHead(6, [3, 2], feature_norm=norm, dtype=torch.float64),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def converted(head):
    return nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(copy.deepcopy(head)))[0]


@each_maker
@pytest.mark.parametrize("shape", [(8,), (4, 5), (4, 6), (6, 6), (2, 3, 6)], ids=str)
def test_converted_heads_give_the_same_logits(make, shape):
    head = make("batch")
    twin = converted(head)
    assert isinstance(twin.norm, nn.SyncBatchNorm)
    assert twin.state_dict().keys() == head.state_dict().keys()
    h = 5 + 3 * torch.randn(*shape, 6, dtype=torch.float64)
    for _ in range(2):  # in training, then with the running statistics
        torch.testing.assert_close(all_logits(twin(h)), all_logits(head(h)), rtol=0, atol=1e-12)
        head.eval(), twin.eval()
    torch.testing.assert_close(twin.norm.running_var, head.norm.running_var, rtol=0, atol=1e-12)


def test_converted_heads_observe_as_before():
    head = MAKERS["nearest"]("batch")
    twin = converted(head)
    h = torch.randn(7, 6, dtype=torch.float64)
    labels = [torch.arange(7) % 3, torch.arange(7) % 2]
    head.observe(h, labels)
    twin.observe(h, labels)
    assert torch.equal(head.weight, twin.weight)


def test_converted_heads_are_the_same_head():
    head = ETFHead(6, 3, feature_norm="batch")
    twin = converted(head)
    twin.load_state_dict(head.state_dict())
    head.load_state_dict(twin.state_dict())
    assert same_head(to_spec(twin), to_spec(head))
    assert from_spec(to_spec(twin), 6).norm is not None


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("convert", [False, True])
def test_batch_normalisations_fold_into_linear_layers(affine, convert):
    norm = nn.BatchNorm1d(6, affine=affine, dtype=torch.float64)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    head = MAKERS["one"](norm)
    head = converted(head) if convert else head
    h = 5 + 3 * torch.randn(4, 5, 6, dtype=torch.float64)
    head(h)
    linear = head.eval().to_linear()
    torch.testing.assert_close(linear(h), head(h), rtol=0, atol=1e-12)


def test_batch_normalisations_without_running_statistics_do_not_fold():
    head = MAKERS["one"](nn.BatchNorm1d(6, track_running_stats=False, dtype=torch.float64))
    with pytest.raises(ValueError, match="BatchNorm1d does not fold into a linear layer"):
        head.to_linear()
