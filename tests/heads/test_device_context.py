"""Heads made under torch.device as a context, as huge models are."""

import pytest
import torch

from etf_heads import ClassMeanHead, CompoundETFHead, CorrelatedETFHead, ETFHead, NearestETFHead
from etf_heads.theory import JointCounts

COUNTS = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
LABELS = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(2, 1)[:-1]
MATRIX = torch.eye(20, 7)
MAKERS = {
    "tiled": lambda **device: CompoundETFHead(20, [3, 4], bias=True, **device),
    "random": lambda **device: CompoundETFHead(20, [3, 4], orientation="random", **device),
    "given": lambda **device: ETFHead(20, 7, orientation=MATRIX, **device),
    "learned": lambda **device: ETFHead(20, 7, orientation="learned", **device),
    "norm": lambda **device: ETFHead(20, 7, feature_norm="batch", learn_scale=True, **device),
    "correlated": lambda **device: CorrelatedETFHead(20, [3, 4], COUNTS, **device),
    "correlated-lengths": lambda **device: CorrelatedETFHead(
        6, [3, 4], COUNTS, unit_norm=False, task_weights=[1.0, 2.0], **device
    ),
    "from_labels": lambda **device: CorrelatedETFHead.from_labels(20, [3, 4], LABELS, **device),
    "sparse": lambda **device: CorrelatedETFHead(
        20, [3, 4], JointCounts.from_labels(LABELS, [3, 4]), **device
    ),
    "nearest": lambda **device: NearestETFHead(20, [3, 4], **device),
    "class-mean": lambda **device: ClassMeanHead(20, [3, 4], **device),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_context_is_the_same_as_the_argument(make):
    with torch.device("meta"):
        head = make()
    twin = make(device="meta")
    assert repr(head) == repr(twin)
    state, expected = head.state_dict(), twin.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in [*head.named_parameters(), *head.named_buffers()]:
        assert tensor.is_meta, name
    for name, tensor in state.items():
        assert (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype)
    assert head.weight.is_meta


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_argument_beats_the_context(make):
    with torch.device("meta"):
        head = make(device="cpu")
    assert not any(t.is_meta for t in [*head.parameters(), *head.buffers()])
    assert torch.equal(head.weight, make().weight)
