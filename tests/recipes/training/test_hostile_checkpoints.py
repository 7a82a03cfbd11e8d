"""Hostile files in the directory of a run are refused, and none of them is run."""

import json
import os
import pickle
import shutil
import time
from dataclasses import replace

import pytest
import torch
from recipe_checks import rewrite_manifest
from recipe_runs import TINY

from recipes.data.folder import read_tasks
from recipes.storage import sha256
from recipes.training.checkpoint import MANIFEST, newest_checkpoint
from recipes.training.engine import train
from recipes.training.result import CONFIG, RESULT, RunResult
from recipes.training.settings import CompareConfig, RunConfig
from tests.hostile import SECONDS, Bomb

pytestmark = pytest.mark.recipes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    config = replace(TINY, epochs=1, width=2, checkpoint_every=0, output=output / "run")
    train(config)
    return config


@pytest.fixture
def stopped(finished, tmp_path):
    """A run that has one checkpoint and no result."""
    config = replace(finished, output=tmp_path / "run", resume=True)
    shutil.copytree(finished.run_dir, config.run_dir)
    (config.run_dir / RESULT).unlink()
    return config


def checkpoint_of(config):
    (checkpoint,) = (config.run_dir / "checkpoints").iterdir()
    return checkpoint


def forge(checkpoint):
    """A manifest that vouches for all files that are there."""
    files = [path for path in checkpoint.iterdir() if path.name != MANIFEST]
    digests = {path.name: sha256(path) for path in files}
    rewrite_manifest(checkpoint, lambda manifest: manifest.update(sha256=digests))


FILES = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")


@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize("name", [*FILES, "pytorch_model.bin", "custom_checkpoint_0.pkl"])
def test_a_pickle_bomb_with_a_right_manifest_does_not_explode(name, kind, stopped, tmp_path):
    checkpoint, exploded = checkpoint_of(stopped), tmp_path / "exploded"
    if name == "pytorch_model.bin":  # which Accelerate takes where the other is missing
        (checkpoint / "model.safetensors").unlink()
    if kind == "pickle":
        (checkpoint / name).write_bytes(pickle.dumps(Bomb(exploded), protocol=2))
    else:
        torch.save(Bomb(exploded), checkpoint / name)
    forge(checkpoint)
    assert newest_checkpoint(stopped) == checkpoint
    with pytest.raises(ValueError, match=r"cannot be loaded .*delete it"):
        train(stopped)
    assert not exploded.exists()
    assert not (stopped.run_dir / RESULT).exists()
    with (checkpoint / name).open("rb") as file:  # it would have
        pickle.load(file) if kind == "pickle" else torch.load(file, weights_only=False)  # noqa: S301
    assert exploded.exists()


@pytest.mark.parametrize("name", FILES)
def test_another_kind_of_content_is_refused(name, stopped):
    checkpoint = checkpoint_of(stopped)
    for content in ([1, 2], {}, {"torch_manual_seed": torch.zeros(3)}):
        torch.save(content, checkpoint / name)
        forge(checkpoint)
        with pytest.raises(ValueError, match="cannot be loaded"):
            train(stopped)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "[]", "null", "\x00"])
def test_broken_manifests_are_skipped_with_a_warning(text, stopped):
    checkpoint = checkpoint_of(stopped)
    (checkpoint / MANIFEST).write_text(text)
    skipped(stopped)


def test_files_that_are_none_are_skipped_with_a_warning(stopped):
    checkpoint = checkpoint_of(stopped)
    optimizer = checkpoint / "optimizer.bin"
    optimizer.unlink()
    os.mkfifo(optimizer)  # to read it would block
    skipped(stopped)
    optimizer.unlink()
    optimizer.symlink_to("/dev/zero")
    skipped(stopped)
    optimizer.unlink()
    optimizer.mkdir()
    skipped(stopped)


def skipped(config):
    start = time.process_time()
    with pytest.warns(UserWarning, match="skipping the checkpoint"):
        assert newest_checkpoint(config) is None
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("text", ["[]", "null", "[" * 100_000, '{"lr": NaN}', "{}"])
def test_hostile_settings_are_no_settings_to_resume(text, stopped):
    (stopped.run_dir / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=r"does not hold settings|not valid JSON|other settings"):
        train(stopped)


@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", '{"more": 1}', "[" * 100_000, '{"config": NaN}']
)
def test_a_hostile_result_is_none(text, finished, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished.run_dir, run_dir)
    (run_dir / RESULT).write_text(text)
    with pytest.raises(ValueError, match=r"result\.json is not"):
        RunResult.read(run_dir)
    with pytest.raises(ValueError, match=r"result\.json is not"):
        train(replace(finished, output=run_dir, resume=True))


PATHS = ["../../x", "/etc/passwd", "..", "a/b", "<script>"]


@pytest.mark.parametrize("name", PATHS)
def test_names_that_lead_elsewhere_make_no_paths(name):
    base = replace(TINY, output=None)
    for field in ("head", "data", "weighting", "preset"):
        if (field, name) == ("preset", "<script>"):
            continue
        with pytest.raises(ValueError, match=f"^{field}=.*: (choose from|a name is needed)"):
            replace(base, **{field: name})
    with pytest.raises(ValueError, match=r"^head=.*choose from"):
        CompareConfig(preset="x", data="multi-digits", heads=(name,))
    with pytest.raises(ValueError, match=r"^(seed|seeds)="):
        RunConfig(preset="x", data="multi-digits", seed=name)
    with pytest.raises(ValueError, match=r"^(seed|seeds)="):
        CompareConfig(preset="x", data="multi-digits", seeds=(name,))


TASKS = {
    "nested": "[" * 100_000,
    "NaN": '{"a": {"x": NaN, "y": 1}}',
    "infinite": '{"a": {"x": 1e999, "y": 1}}',
    "lists in lists": '{"a": [["x"], ["y"]]}',
    "a path": '{"a": ["../../etc/passwd", "y"]}',
    "no names": '{"a": {}}',
    "booleans": '{"a": {"x": true, "y": false}}',
    "a huge list": json.dumps({"a": ["x"] * 200_000}),
    "many names": json.dumps({"a": [str(n) for n in range(100_000)]}),
    "a pickle": "cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("name", TASKS)
def test_hostile_files_of_tasks_are_refused(name, tmp_path):
    path = tmp_path / "tasks.json"
    path.write_text(TASKS[name])
    start = time.process_time()
    with pytest.raises(ValueError, match=r"tasks\.json"):
        read_tasks(path, ["x", "y"])
    assert time.process_time() - start < SECONDS
