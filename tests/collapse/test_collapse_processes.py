"""Real gloo processes: uneven batches, and one that has no data at all."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from etf_heads.collapse import (
    BufferDistortion,
    MultiSourceCollapse,
    MultiTaskCollapse,
    RegressionCollapse,
    SingleTaskCollapse,
)
from tests.processes import in_processes

TASKS = {"left": 4, "right": 3}


def sample():
    generator = torch.Generator().manual_seed(1)
    labels = torch.stack([torch.randint(k, (200,), generator=generator) for k in TASKS.values()], 1)
    features = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    features += (
        2
        * torch.randn(12, 6, generator=generator, dtype=torch.float64)[
            labels[:, 0] * 3 + labels[:, 1]
        ]
    )
    weight = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    return features, labels, weight


# Uneven batches; of three processes, the second has no data.
SHARES = {
    1: [[0, 200]],
    2: [[0, 37, 150], [150, 200]],
    3: [[0, 90], [], [90, 97, 200]],
}


def measured(bounds, group=None):
    """All that one process does with its part of the data."""
    features, labels, weight = sample()
    parts = [slice(a, b) for a, b in pairwise(bounds)]
    multi = MultiTaskCollapse(6, TASKS, process_group=group)
    single = SingleTaskCollapse(6, 4, process_group=group)
    # A reservoir that holds all is exact, whoever had which sample.
    sources = MultiSourceCollapse(6, TASKS, reservoir=200, process_group=group)
    regression = RegressionCollapse(6, 2, process_group=group)
    buffer = BufferDistortion(6, 4, process_group=group)
    for part in parts:
        buffer.update(features[part], labels[part, 0], "population")
        few = features[part, 0] > 1
        buffer.update(features[part][few], labels[part, 0][few], "buffer")
        multi.update(features[part], labels[part])
        single.update(features[part], labels[part, 0])
        sources.update([features[part]] * 2, [labels[part, 0], labels[part, 1]])
        regression.update(features[part], labels[part].double())
    decisions = multi.decisions(weight)
    for part in parts:
        decisions.update(features[part], labels[part])
    first = multi.compute(weight)
    assert first == multi.compute(weight)  # gathering leaves a process's own states alone
    others = buffer.compute(current=[3]) | sources.compute(weight) | regression.compute(weight[:2])
    return first | single.compute(weight[:4]) | decisions.compute() | others


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    pair = dist.new_group([0, 1])
    values = {"3": measured(SHARES[3][rank])}
    if rank < 2:
        values["2"] = measured(SHARES[2][rank], pair)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(values))
    dist.barrier()
    dist.destroy_process_group()


def test_an_error_in_compute_leaves_a_synced_metric_as_it_was():
    measure = SingleTaskCollapse(
        2, 3, distributed_available_fn=lambda: True, dist_sync_fn=lambda state, **_: [state] * 2
    )
    measure.update(torch.randn(4, 2), torch.full((4,), 1))
    with pytest.raises(ValueError, match="only one class"):
        measure.compute()
    measure.update(torch.randn(4, 2), torch.full((4,), 2))
    measure.compute()
    assert measure.class_statistics().counts.tolist() == [8, 8]  # as if two had the same data


def test_two_and_three_processes_measure_the_same_as_one(tmp_path):
    in_processes(work, str(tmp_path), size=3)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    alone = measured(SHARES[1][0])
    for world in (2, 3):
        values = [result[str(world)] for result in results[:world]]
        assert all(value == values[0] for value in values)
        assert values[0] == pytest.approx(alone, rel=1e-9, abs=1e-13)
