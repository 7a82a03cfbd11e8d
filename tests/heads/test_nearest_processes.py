"""Heads that observe in real gloo processes: what one process would do with all the data."""

import pytest
import safetensors.torch
import torch
from torch import distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from etf_heads import NearestETFHead
from tests.cases import observed, part_of
from tests.processes import in_processes, keep

F64 = torch.float64
TASKS = {"shape": 4, "colour": 3}


def loss_of(logits, labels, reduction):
    return sum(F.cross_entropy(z, labels[t], reduction=reduction) for t, z in logits.items())


def one_step_on_uneven_batches(rank, size):
    """The head's state, and the gradient summed over processes."""
    h, y = observed(TASKS, 31)
    body = torch.nn.Linear(12, 12, dtype=F64)
    with torch.no_grad():
        body.weight.copy_(torch.eye(12) + torch.arange(12) / 10)
        body.bias.zero_()
    head = NearestETFHead(12, TASKS, gradient=True, dtype=F64)
    first = slice(0, 0 if rank else 4)
    head.observe(h[first], part_of(y, first))
    mine = slice(rank * 13, 13 if size > 1 and rank == 0 else None)  # 13 and 18
    loss_of(head(body(h[mine]), part_of(y, mine)), part_of(y, mine), "sum").backward()
    gradient = body.weight.grad
    if size > 1:
        distributed.all_reduce(gradient)
    return dict(head.state_dict()) | {"gradient": gradient}


class Observing(torch.nn.Module):
    """A network with a hidden layer, whose head is given the labels."""

    def __init__(self, gradient):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Linear(12, 16, dtype=F64), torch.nn.Tanh(), torch.nn.Linear(16, 8, dtype=F64)
        )
        self.head = NearestETFHead(8, TASKS, bias=True, gradient=gradient, dtype=F64)

    def forward(self, features, labels):
        return self.head(self.body(features), labels)


def trained(rank, size, gradient):
    """Everything that is stored after five steps on the same batches, each shared out evenly."""
    network = Observing(gradient)
    model = DistributedDataParallel(network) if size > 1 else network
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for step in range(5):
        h, y = observed(TASKS, 32, seed=step)
        mine = slice(rank, None, size)
        loss_of(model(h[mine], part_of(y, mine)), part_of(y, mine), "mean").backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(network.state_dict())


def all_runs(rank, size):
    runs = {
        "uneven": one_step_on_uneven_batches(rank, size),
        "constant": trained(rank, size, gradient=False),
        "gradient": trained(rank, size, gradient=True),
    }
    return {f"{run}/{k}": v.clone() for run, state in runs.items() for k, v in state.items()}


def refusals(rank):
    """What each process raises when another, or it, has a label too many; then all go on."""
    head = NearestETFHead(12, TASKS, dtype=F64)
    h, y = observed(TASKS)
    bad = y | {"colour": y["colour"] + 1}
    found = []
    for culprit in (0, 1):
        for call in (head.observe, head):
            with pytest.raises(ValueError) as caught:  # noqa: PT011 (returned)
                call(h, bad if rank == culprit else y)
            found.append(str(caught.value))
    assert not head.running.updates
    head.observe(h, y)
    assert head.running.counts.sum() == 4 * len(h)  # two tasks in two processes
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("processes")
    in_processes(keep, str(place), all_runs, refusals)
    return place


@pytest.fixture(scope="module")
def alone():
    return all_runs(0, 1)


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("run", ["uneven", "constant", "gradient"])
def test_two_processes_end_where_one_does(folder, alone, rank, run):
    found = safetensors.torch.load_file(folder / f"{rank}")
    names = [name for name in alone if name.startswith(f"{run}/")]
    assert len(names) >= 4
    for name in names:
        torch.testing.assert_close(found[name], alone[name], rtol=0, atol=1e-10)


def test_the_gradient_through_the_class_means_makes_a_difference(alone):
    weight = "body.2.weight"
    assert (alone[f"constant/{weight}"] - alone[f"gradient/{weight}"]).abs().max() > 1e-3


def test_a_batch_that_one_process_refuses_is_refused_by_all(folder):
    first, second = ((folder / f"{rank}.txt").read_text().splitlines() for rank in range(2))
    own = "labels of task 'colour' run from 1 to 3, expected 0 to 2"
    for line in (*first[:2], *second[2:]):
        assert line.startswith(own)
    for line, culprit in ((second[0], 0), (second[1], 0), (first[2], 1), (first[3], 1)):
        assert line.startswith(f"the batch of process {culprit} was refused")
