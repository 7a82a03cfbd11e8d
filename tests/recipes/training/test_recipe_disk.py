"""Disks that are full: a small file system that fills up, and a limit on the size of files."""

import re
import resource
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from itertools import count

import pytest
import torch
from recipe_runs import error_file, files_below, free_port, metrics, run, start, weights

import recipes.train
import recipes.training.checkpoint
import recipes.training.engine
import recipes.training.result
from recipes.storage import write_json
from recipes.training.engine import train
from recipes.training.result import write_weights

pytestmark = pytest.mark.recipes
WAY_OUT = r"cannot be written \(.*\)\. What was .* free space, .* goes on with --resume"


class SmallDisk:
    """A file system of two megabytes, all of its own."""

    def __init__(self, place):
        self.place = place
        self.ballast = place / "ballast"

    def fill(self, room):
        """Leave so many bytes, a multiple of a page."""
        free = shutil.disk_usage(self.place).free
        self.ballast.write_bytes(bytes(free - room))
        assert shutil.disk_usage(self.place).free == room

    def clear(self):
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path):
    place, mount, umount = tmp_path / "disk", shutil.which("mount"), shutil.which("umount")
    place.mkdir()
    if mount is None or umount is None:
        pytest.skip("there is no mount here")
    options = ["-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield SmallDisk(place)
    # Torch keeps a file that it could not write open: -l waits for it.
    subprocess.run([umount, "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def whole(straight, tmp_path_factory):
    """A run of one epoch that ran through, with three checkpoints."""
    config = replace(straight, epochs=1, output=tmp_path_factory.mktemp("whole"))
    assert run(config) == [0]
    return config


def assert_same(config, whole):
    assert metrics(config.run_dir) == metrics(whole.run_dir)
    assert weights(config.run_dir) == weights(whole.run_dir)


def before_call(monkeypatch, module, name, number, action):
    """Do something just before the given call of a function."""
    function, calls = getattr(module, name), count(1)

    def wrapper(*args, **kwargs):
        if next(calls) == number:
            action()
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapper)


CHECKPOINT = (recipes.training.engine, "save_checkpoint")
FULL = {
    "the settings": (recipes.training.engine, "open_run_directory", 1, 0, r"config\.json"),
    "the first checkpoint": (*CHECKPOINT, 1, 0, r"epoch00000-step0000007\.partial"),
    "a checkpoint's directory": (*CHECKPOINT, 3, 0, r"epoch00001-step0000000\.partial"),
    "a checkpoint's weights": (*CHECKPOINT, 3, 16384, r"epoch00001-step0000000\.partial"),
    "a checkpoint's optimiser": (*CHECKPOINT, 3, 40960, r"epoch00001-step0000000\.partial"),
    "a checkpoint's manifest": (recipes.training.checkpoint, "write_json", 3, 0, r"manifest\.json"),
    "the weights": (recipes.training.engine, "write_weights", 1, 4096, r"model\.safetensors"),
    "the result": (recipes.training.result, "to_json", 1, 0, r"result\.json"),
}
"""Before which call of what the disk gets full, but for how many bytes, and what is named."""


@pytest.mark.parametrize("what", FULL)
def test_on_a_full_disk_a_run_stops_in_words_and_goes_on_when_there_is_space(
    what, whole, disk, monkeypatch
):
    module, name, number, room, named = FULL[what]
    config = replace(whole, output=disk.place / "run", resume=True)
    before = {}

    def fill():
        disk.fill(room)
        before.update(finished(config))

    with monkeypatch.context() as patch:
        before_call(patch, module, name, number, fill)
        with pytest.raises(OSError, match=rf"{named} {WAY_OUT}"):
            train(config)
    assert finished(config) == before
    disk.clear()
    assert run(config) == [0]
    assert_same(config, whole)
    assert not list(config.run_dir.rglob("*.partial"))


def finished(config):
    """All files that are whole."""
    return {k: v for k, v in files_below(config.run_dir).items() if ".partial" not in k}


def error_of(config):
    try:
        train(config)
    except OSError as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_stops_in_words_on_a_disk_of_any_number_of_pages(whole, disk):
    config = replace(whole, output=disk.place / "run", resume=True)
    for pages in count():
        disk.fill(4096 * pages)
        said = error_of(config)
        if said is None:
            break
        assert re.search(WAY_OUT, said)
        disk.clear()
        assert run(config) == [0]
        assert_same(config, whole)
        shutil.rmtree(config.run_dir)
    left = sum(len(content) for content in files_below(whole.run_dir).values())
    assert 4096 * pages >= left  # in less space no run can end


def limit(size):
    """No file of this process may be longer."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_file_that_may_not_be_as_long_stops_a_run_in_words(whole, tmp_path):
    config = replace(whole, output=tmp_path / "run", resume=True)
    assert run(config, partial(limit, 15_000)) == [1]
    assert "step0000007.partial cannot be written" in error_file(config).read_text()
    assert run(config) == [0]
    assert_same(config, whole)


def test_all_processes_stop_when_one_cannot_write(whole, tmp_path):
    config = replace(whole, output=tmp_path / "run")
    port = free_port()
    limits = (partial(limit, 15_000), None)
    group = [start(config, limits[rank], rank, 2, port) for rank in range(2)]
    for process in group:
        process.join(60)
    assert [process.exitcode for process in group] == [1, 1]
    for rank in range(2):
        assert "step0000007.partial cannot be written" in error_file(config, rank).read_text()


def test_the_training_script_says_it_in_one_line(disk, monkeypatch):
    disk.fill(8192)
    options = f"multi-digits --output {disk.place}/run --epochs 1 --checkpoint-every 1"
    monkeypatch.setattr("sys.argv", ["train.py", *options.split()])
    with pytest.raises(SystemExit, match=r"^error: .*/run/checkpoints/.*-step0000001\.partial"):
        recipes.train.main()


def test_what_there_was_stays_when_its_successor_cannot_be_written(disk):
    file = disk.place / "result.json"
    write_json(file, {"a": 1})
    old_weights = write_weights(torch.nn.Linear(2, 2), disk.place)
    before = file.read_bytes(), old_weights.read_bytes()
    disk.fill(0)
    with pytest.raises(OSError, match=rf"result\.json {WAY_OUT}"):
        write_json(file, {"a": [1] * 10_000})
    with pytest.raises(OSError, match=r"model\.safetensors cannot be written .* 0 bytes are free"):
        write_weights(torch.nn.Linear(200, 200), disk.place)
    assert (file.read_bytes(), old_weights.read_bytes()) == before
