"""Runs side by side end where they end one after the other."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from recipe_runs import TINY, metrics, weights

from recipes.training import jobs as side_by_side
from recipes.training.engine import train
from recipes.training.jobs import train_all
from tests.processes import SERVER

pytestmark = pytest.mark.recipes


@pytest.fixture
def two(tmp_path):
    """Two runs of one epoch."""
    shared = replace(TINY, epochs=1, checkpoint_every=0, preset="x")
    return [
        replace(shared, head=head, output=tmp_path / head) for head in ("learned-norm", "compound")
    ]


def test_two_at_once_end_where_one_after_the_other_does(two, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "get_context", lambda _: SERVER)  # no imports once more
    found = train_all([(train, replace(config, jobs=2)) for config in two], jobs=2)
    assert [result.config["head"] for result in found] == ["learned-norm", "compound"]
    assert [result.config["jobs"] for result in found] == [2, 2]

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    alone = [replace(config, output=tmp_path / f"{config.head} alone") for config in two]
    train_all([(train, config) for config in alone])
    torch.set_num_threads(threads)
    for config, same in zip(two, alone, strict=True):
        assert metrics(config.run_dir) == metrics(same.run_dir)
        assert weights(config.run_dir) == weights(same.run_dir)
        assert train(replace(config, resume=True)).config["jobs"] == 2  # finished: not run again


@pytest.mark.slow
def test_an_error_in_one_of_them_is_raised(two, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    two[1].run_dir.mkdir()
    (two[1].run_dir / "mine.txt").write_text("not a run")
    with pytest.raises(FileExistsError, match="compound"):
        train_all([(train, config) for config in two], jobs=2)


def test_processes_that_share_a_run_do_not_train_several(two, monkeypatch):
    launched = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU)
    monkeypatch.setattr(side_by_side, "process_state", lambda: launched)
    with pytest.raises(ValueError, match=r"jobs=2: .* without a launcher"):
        train_all([(train, config) for config in two], jobs=2)


def test_no_jobs_are_refused(two):
    with pytest.raises(ValueError, match="jobs=0: at least 1"):
        train_all([(train, config) for config in two], jobs=0)
