"""Runs in processes of their own, which can be killed at a chosen moment.

The server that they are forked from has the images, too.
"""

import os
import signal
import socket
from dataclasses import replace
from itertools import count

import torch
from torch import nn

import recipes.training.augmentation
import recipes.training.checkpoint
import recipes.training.engine
import recipes.training.result
from recipes.command import FAULTS
from recipes.training.backbones import BACKBONES
from recipes.training.engine import train
from recipes.training.presets import PRESETS
from recipes.training.result import RunResult
from tests.processes import MODULES, SERVER

KILLED = -9
SERVER.set_forkserver_preload([*MODULES, "torchvision", "tests.recipes.recipe_server"])

TINY = replace(
    PRESETS["multi-digits"][1],
    train_images=2000,
    test_images=400,
    width=4,
    features=20,
    feature_norm="batch",
    batch_size=100,
    epochs=2,
    checkpoint_every=7,
)
"""20 steps an epoch, checkpoints in mid-epoch."""


def cnn_with_dropout(image_shape, features, width):
    """Its masks come from the global generator, whose state a resume has to bring back."""
    return nn.Sequential(BACKBONES["cnn"](image_shape, features, width), nn.Dropout(0.2))


def cnn_image_by_image(image_shape, features, width):
    """No BatchNorm: what it makes of an image does not depend on the others in the batch."""
    channels, height, breadth = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(width * height * breadth, features),
        nn.Tanh(),
    )


BACKBONES |= {"cnn-dropout": cnn_with_dropout, "cnn-image-by-image": cnn_image_by_image}
"""For tests only; none that the recipes offer begins with "cnn-"."""


def start(config, moment=None, rank=0, processes=1, port=0):
    """Train in a new process, which dies at the named moment, or does first what it is given."""
    environment = {"ACCELERATE_USE_CPU": "true"}
    if processes > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    process = SERVER.Process(target=_work, args=(config, moment, environment))
    process.start()
    return process


def run(config, moment=None, processes=1):
    """Train to the end, or to the named moment; returns the exit codes of the processes."""
    port = free_port() if processes > 1 else 0
    group = [start(config, moment, rank, processes, port) for rank in range(processes)]
    for process in group:
        process.join(timeout=120)
        if moment is not None:  # what waits for a dead process dies too, as under a launcher
            for other in group:
                other.kill()
    for process in group:
        process.join()
    return [process.exitcode for process in group]


def error_file(config, rank=0):
    """Where a process that was not killed leaves its error."""
    return config.run_dir.with_name(f"{config.run_dir.name}-error{rank}.txt")


def metrics(run_dir):
    """All that a run measured, without the clock."""
    history = RunResult.read(run_dir).history
    return [replace(row, train_seconds=0.0) for row in history]


def weights(run_dir):
    return (run_dir / "model.safetensors").read_bytes()


def files_below(directory):
    """Contents by path."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def kill_in_mid_epoch(config, directory, processes=1):
    """Hold a run that was killed and resumed against one that was not; returns its result."""
    whole = replace(config, output=directory / "whole")
    killed = replace(config, output=directory / "killed", resume=True)
    assert run(whole, processes=processes) == [0] * processes
    assert run(killed, "in mid-epoch", processes=processes) == [KILLED] * processes
    assert run(killed, processes=processes) == [0] * processes
    assert metrics(killed.run_dir) == metrics(whole.run_dir)
    assert weights(killed.run_dir) == weights(whole.run_dir)
    return RunResult.read(killed.run_dir)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _work(config, moment, environment):
    os.environ.update(environment)
    torch.set_num_threads(1)
    if moment is not None:
        MOMENTS.get(moment, moment)()
    try:
        train(config)
    except FAULTS as error:
        error_file(config, int(environment.get("RANK", 0))).write_text(f"{error!r}")
        raise
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def _on_call(module, name, number, *, before=True):
    """Die before or after the given call of a function."""
    function, calls = getattr(module, name), count(1)

    def wrapper(*args, **kwargs):
        last = next(calls) == number
        if last and before:
            _die()
        value = function(*args, **kwargs)
        if last:
            _die()
        return value

    setattr(module, name, wrapper)


MOMENTS = {
    "before the first record": lambda: _on_call(recipes.training.engine, "measure", 1),
    "before the first checkpoint": lambda: _on_call(recipes.training.augmentation, "shifted", 4),
    "in mid-epoch": lambda: _on_call(recipes.training.augmentation, "shifted", 10),
    "writing a checkpoint": lambda: _on_call(recipes.training.checkpoint, "sha256", 2),
    "before a checkpoint is moved": lambda: _on_call(
        recipes.training.checkpoint, "write_json", 1, before=False
    ),
    "measuring an epoch": lambda: _on_call(recipes.training.engine, "measure", 1),
    "in the second epoch": lambda: _on_call(recipes.training.augmentation, "shifted", 16),
    "writing the weights": lambda: _on_call(recipes.training.result, "save_model", 1, before=False),
    "writing the result": lambda: _on_call(recipes.training.result, "write_json", 1),
}
