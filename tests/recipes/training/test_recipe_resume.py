from dataclasses import replace

import pytest
from recipe_runs import (
    KILLED,
    MOMENTS,
    TINY,
    kill_in_mid_epoch,
    metrics,
    run,
    weights,
)

from recipes.training.checkpoint import newest_checkpoint
from recipes.training.engine import train
from recipes.training.result import RunResult

pytestmark = pytest.mark.recipes


def test_killed_at_every_kind_of_moment_ends_with_the_same_metrics(straight, tmp_path):
    config = replace(straight, output=tmp_path / "killed", resume=True)
    for moment in MOMENTS:
        assert run(config, moment) == [KILLED], moment
        assert not (config.run_dir / "result.json").exists(), moment
    assert run(config) == [0]
    assert metrics(config.run_dir) == metrics(straight.run_dir)
    assert weights(config.run_dir) == weights(straight.run_dir)


def test_a_head_resumes_with_its_class_means_and_what_it_learns(tmp_path):
    settings = {"head": "nearest", "learn_scale": True, "bias": True, "warm_up_logits": 1}
    kill_in_mid_epoch(replace(TINY, epochs=1, **settings), tmp_path)


def test_momentum_of_sgd_is_resumed(tmp_path):
    settings = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-3, "head_decay": 10.0}
    kill_in_mid_epoch(replace(TINY, epochs=1, **settings), tmp_path)


def test_two_processes_killed_in_mid_epoch_end_with_the_same_metrics(straight, tmp_path):
    result = kill_in_mid_epoch(replace(straight, epochs=1), tmp_path, processes=2)
    assert result.provenance.processes == 2


def test_a_checkpoint_holds_nothing_to_unpickle_but_what_accelerate_loads_safely(straight):
    checkpoint = newest_checkpoint(straight)
    assert {path.name for path in checkpoint.iterdir()} == {
        "manifest.json",
        "model.safetensors",
        "optimizer.bin",
        "random_states_0.pkl",
        "scheduler.bin",
    }


def test_only_two_checkpoints_are_kept(straight):
    assert len(list((straight.run_dir / "checkpoints").iterdir())) == 2


def test_a_finished_run_is_not_run_again(straight):
    rows = []
    result = train(replace(straight, resume=True), on_epoch=rows.append)
    assert result == RunResult.read(straight.run_dir)
    assert rows == []


def test_a_run_is_never_overwritten_unasked(straight, tmp_path):
    with pytest.raises(FileExistsError, match="already holds a run: go on with it with --resume"):
        train(straight)
    with pytest.raises(ValueError, match=r"other settings \(lr: 0.01 -> 0.5\)"):
        train(replace(straight, lr=0.5, resume=True))
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no run: give another --output"):
        train(replace(straight, output=tmp_path, resume=True))
    with pytest.raises(FileExistsError, match="is a file"):
        train(replace(straight, output=tmp_path / "thesis.tex"))
