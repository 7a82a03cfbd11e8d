"""Rows of class means in real gloo processes: equal in all, and those of one with all the data."""

import pytest
import safetensors.torch
import torch

from etf_heads import PrototypeHead
from tests.cases import observed, part_of
from tests.processes import in_processes, keep

TASKS = {"shape": 4, "colour": 3}


def observations(rank, size):
    """The head's state after batches of 13 and 18 samples, and of four and none."""
    found = {}
    for dtype in (torch.bfloat16, torch.float64):
        head = PrototypeHead(12, TASKS, means_dtype=dtype, dtype=torch.float64)
        for seed in range(5):
            h, y = observed(TASKS, 31, seed=seed)
            y["shape"][seed] = -100
            cuts = (0, 13, 31) if seed % 2 else (0, 4, 4)
            mine = slice(cuts[rank], cuts[rank + 1]) if size > 1 else slice(0, cuts[-1])
            head.observe(h[mine], part_of(y, mine))
        found |= {f"{dtype}/{name}": value.clone() for name, value in head.state_dict().items()}
    return found


def refusals(rank):
    """What each process raises when another, or it, has a label too many; then all go on."""
    head = PrototypeHead(12, TASKS)
    h, y = observed(TASKS)
    found = []
    for culprit in (0, 1):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (returned)
            head.observe(h, y | {"colour": y["colour"] + (rank == culprit)})
        found.append(str(caught.value))
    assert not head.running.updates
    head.observe(h, y)
    assert head.running.counts.sum() == 4 * len(h)  # two tasks in two processes
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("processes")
    in_processes(keep, str(place), observations, refusals)
    return place


def test_processes_have_the_rows_of_one_with_all_the_data(folder):
    alone = observations(0, 1)
    first, second = (safetensors.torch.load_file(folder / str(rank)) for rank in range(2))
    for name, expected in alone.items():
        assert torch.equal(first[name], expected), name  # also where rounding is at random
        assert torch.equal(second[name], expected), name


def test_a_batch_that_one_process_refuses_is_refused_by_all(folder):
    first, second = ((folder / f"{rank}.txt").read_text().splitlines() for rank in range(2))
    own = "labels of task 'colour' run from 1 to 3, expected 0 to 2"
    assert first[0].startswith(own)
    assert second[1].startswith(own)
    assert second[0].startswith("the batch of process 0 was refused")
    assert first[1].startswith("the batch of process 1 was refused")
