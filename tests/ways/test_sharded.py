"""FSDP2: heads with every option train as in one process, and give their dense form."""

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from etf_heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
    PrototypeHead,
)
from tests.cases import all_logits
from tests.ways.two_processes import found_by

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")

COUNTS = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
MAKERS = {
    "ETFHead": lambda **options: ETFHead(12, 7, **options),
    "random": lambda **options: ETFHead(12, 7, orientation="random", **options),
    "CompoundETFHead": lambda **options: CompoundETFHead(12, [3, 4], **options),
    "CorrelatedETFHead": lambda **options: CorrelatedETFHead(12, [3, 4], COUNTS, **options),
    "NearestETFHead": lambda **options: NearestETFHead(12, [3, 4], **options),
    "ClassMeanHead": lambda **options: ClassMeanHead(12, [3, 4], **options),
    "PrototypeHead": lambda **options: PrototypeHead(12, [3, 4], **options),
}
OPTIONS = {
    "plain": {},
    "bias": {"bias": True},
    "learn_scale": {"learn_scale": True, "scale": 3.0},
    "batch": {"feature_norm": "batch", "bias": True, "learn_scale": True},
    "layer": {"feature_norm": "layer", "bias": True, "learn_scale": True},
    "unit": {"feature_norm": "unit", "bias": True, "learn_scale": True},
}

APART = ("learn_scale", "batch")


class Model(nn.Module):
    def __init__(self, head, option):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(6, 12)
        self.head = MAKERS[head](**OPTIONS[option])

    def forward(self, images):
        return all_logits(self.head(self.backbone(images)))


def trained(model):
    """After steps on a batch that every process has: their mean gradient is that of one."""
    images = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    targets = torch.randn(16, 7, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (model(images) - targets).square().mean().backward()
        optimizer.step()
    return model


def dense(head):
    """The class vectors, and those of the linear layers where there are some."""
    found = [head.weight]
    if type(head.norm).__name__ in ("NoneType", "BatchFeatureNorm"):
        linear = head.to_linear()
        layers = [linear] if isinstance(linear, nn.Linear) else linear.values()
        found += [p for layer in layers for p in layer.parameters()]
    return [tensor.detach() for tensor in found]


def _places(option):
    """Whether the head is sharded by itself; with the whole model is enough for most."""
    return (False, True) if option in APART else (False,)


def work(rank):
    mesh = init_device_mesh("cpu", (2,))
    for head in MAKERS:
        for option in OPTIONS:
            for apart in _places(option):
                model = Model(head, option)
                if apart:
                    fully_shard(model.head, mesh=mesh)
                fully_shard(model, mesh=mesh)
                tensors = [t.tolist() for t in dense(trained(model).head)]
                yield rank, head, option, apart, tensors
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)
    model = Model("CompoundETFHead", "batch")
    fully_shard(model, mesh=mesh, mp_policy=policy)
    yield rank, "mixed", "", False, [t.tolist() for t in dense(trained(model).head)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    answers = found_by(work, tmp_path_factory.mktemp("store"))
    return {tuple(key): [torch.tensor(t) for t in tensors] for *key, tensors in answers}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("head", MAKERS)
def test_sharded_heads_have_the_dense_form_of_whole_ones(found, head, option, rank):
    expected = dense(trained(Model(head, option)).head)
    for apart in _places(option):
        ours = found[rank, head, option, apart]
        assert len(ours) == len(expected)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_mixed_precision_stays_near(found):
    expected = dense(trained(Model("CompoundETFHead", "batch")).head)
    for a, b in zip(found[0, "mixed", "", False], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.05)
