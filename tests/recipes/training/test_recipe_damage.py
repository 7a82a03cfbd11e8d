"""Checkpoints that are not as they were written, or not of the run that finds them."""

import json
import os
import shutil
import warnings
from dataclasses import replace
from random import Random

import pytest
from recipe_checks import rewrite_manifest
from recipe_runs import KILLED, files_below, metrics, run, weights

from recipes.training.checkpoint import newest_checkpoint
from recipes.training.engine import train
from recipes.training.result import open_run_directory

pytestmark = pytest.mark.recipes

FILES = (
    "manifest.json",
    "model.safetensors",
    "optimizer.bin",
    "random_states_0.pkl",
    "scheduler.bin",
)


@pytest.fixture
def unfinished(straight, tmp_path):
    """A run that has two checkpoints and no result, with its settings."""
    config = replace(straight, output=tmp_path / "run", resume=True)
    shutil.copytree(straight.run_dir, config.run_dir)
    (config.run_dir / "result.json").unlink()
    return config


def checkpoints(config):
    """From the older to the newer."""
    return sorted((config.run_dir / "checkpoints").iterdir())


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def damages(file):
    """Ways to damage a file, by what they are called."""
    length, rng = file.stat().st_size, Random(file.name)  # noqa: S311  (no secret)
    flips = [8 * rng.randrange(length - 1) + rng.choice([0, 1, 2, 3, 4, 6, 7]) for _ in range(8)]
    found = {  # bit 5 may turn the e of a number into E, which is the same number
        f"bit {bit} flipped": lambda bit=bit: flip(file, bit) for bit in (0, *flips)
    }
    lengths = (0, 1, length // 2, length - 2)
    found |= {f"cut to {n} bytes": lambda n=n: os.truncate(file, n) for n in lengths}
    return found | {"missing": file.unlink}


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_with_any_damaged_file_is_skipped_by_name(unfinished, name):
    older, newest = checkpoints(unfinished)
    assert newest_checkpoint(unfinished) == newest
    file, sound = newest / name, (newest / name).read_bytes()
    found = damages(file)
    for what, damage in found.items():
        damage()
        with pytest.warns(UserWarning, match=f"skipping the checkpoint .*{newest.name}: ") as said:
            assert newest_checkpoint(unfinished) == older, what
        assert name in str(said[0].message).partition(": ")[2]
        file.write_bytes(sound)
    assert newest_checkpoint(unfinished) == newest


def test_no_bit_of_a_manifest_can_change_what_is_read(unfinished):
    _, newest = checkpoints(unfinished)
    manifest = newest / "manifest.json"
    meant = json.loads(manifest.read_text())
    bits = range(0, 8 * manifest.stat().st_size, 149)  # each place in a byte has its turn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bit in bits:
            flip(manifest, bit)
            taken = newest_checkpoint(unfinished) == newest
            assert not taken or json.loads(manifest.read_text()) == meant, bit
            flip(manifest, bit)


@pytest.mark.parametrize("name", ["manifest.json", "optimizer.bin"])
def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_if_it_were_not(
    straight, unfinished, name
):
    _, newest = checkpoints(unfinished)
    flip(newest / name, 1001)
    assert run(unfinished) == [0]
    assert metrics(unfinished.run_dir) == metrics(straight.run_dir)
    assert weights(unfinished.run_dir) == weights(straight.run_dir)
    assert newest_checkpoint(unfinished) == newest  # written again


def test_what_is_written_after_damaged_checkpoints_is_kept(straight, unfinished):
    for checkpoint in checkpoints(unfinished):
        (checkpoint / "manifest.json").write_text("{")
    assert run(unfinished, "in mid-epoch") == [KILLED]  # from the beginning, past step 7
    with pytest.warns(UserWarning, match="is not valid JSON"):
        assert newest_checkpoint(unfinished).name == "epoch00000-step0000007"
    assert run(unfinished) == [0]
    assert weights(unfinished.run_dir) == weights(straight.run_dir)


FOREIGN = {
    "head": "compound-hadamard",  # has the same state, which would load without a word
    "seed": 1,
    "weighting": "mgda",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_checkpoint_of_other_settings_is_refused_and_stays(unfinished, name):
    _, newest = checkpoints(unfinished)
    other = replace(
        unfinished, output=unfinished.run_dir.with_name("other"), epochs=1, **{name: FOREIGN[name]}
    )
    train(other)
    shutil.rmtree(newest)
    shutil.copytree(checkpoints(other)[-1], newest)
    before = files_below(unfinished.run_dir)
    with pytest.raises(
        ValueError, match=rf"{newest.name} is of .*\(.*{name}: .* -> .*take it away"
    ):
        train(unfinished)
    assert files_below(unfinished.run_dir) == before


def test_a_checkpoint_of_a_later_version_is_refused_and_stays(unfinished):
    _, newest = checkpoints(unfinished)

    def later(manifest):
        manifest["format"] = 4
        manifest["sha256"] = "all in one"

    rewrite_manifest(newest, later)
    before = files_below(unfinished.run_dir)
    with pytest.raises(ValueError, match=f"{newest.name} has the format 4, .* reads 3: resume"):
        train(unfinished)
    assert files_below(unfinished.run_dir) == before


def test_a_run_from_before_a_setting_existed_is_gone_on_with(straight, unfinished):
    saved = json.loads((unfinished.run_dir / "config.json").read_text())
    del saved["weighting"]
    (unfinished.run_dir / "config.json").write_text(json.dumps(saved))
    for checkpoint in checkpoints(unfinished):
        rewrite_manifest(checkpoint, lambda manifest: manifest["config"].pop("weighting"))
    assert open_run_directory(unfinished) is None
    with pytest.raises(ValueError, match=r"other settings \(weighting: 'equal' -> 'mgda'\)"):
        open_run_directory(replace(unfinished, weighting="mgda"))
    assert newest_checkpoint(unfinished) == checkpoints(unfinished)[-1]
    assert run(unfinished) == [0]
    assert weights(unfinished.run_dir) == weights(straight.run_dir)
