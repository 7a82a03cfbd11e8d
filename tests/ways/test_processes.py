"""DDP and FSDP2: two gloo processes with half the batch each end where one with all of it does."""

import pytest
import torch
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.ways.networks import MAKERS, Network, train
from tests.ways.two_processes import found_by

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")


def optimizer_of(network):
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


def replicated(kind, rank):
    network = Network(kind)
    wrapped = DistributedDataParallel(network)
    train(wrapped, optimizer_of(wrapped), rows=slice(rank, None, 2))
    return network.state_dict()


def sharded(kind, rank):
    network = Network(kind)
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(network.backbone, mesh=mesh)
    fully_shard(network, mesh=mesh)
    train(network, optimizer_of(network), rows=slice(rank, None, 2))
    gathered = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(network, options=gathered)


WAYS = {"DDP": replicated, "FSDP2": sharded}


def work(rank):
    for way, run in WAYS.items():
        for kind in MAKERS:
            state = run(kind, rank)
            yield way, kind, rank, {name: t.tolist() for name, t in state.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    states = found_by(work, tmp_path_factory.mktemp("store"))
    return {(way, kind, rank): state for way, kind, rank, state in states}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MAKERS)
def test_two_processes_end_where_one_does(found, way, kind):
    alone = Network(kind)
    train(alone, optimizer_of(alone))
    state = found[way, kind, 0]
    assert set(state) == set(alone.state_dict())
    for name, expected in alone.state_dict().items():
        torch.testing.assert_close(
            torch.tensor(state[name], dtype=expected.dtype), expected, rtol=0, atol=1e-5, msg=name
        )
