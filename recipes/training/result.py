"""The directory of a run: its configuration, and in the end its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from etf_heads.surgery import model_costs
from recipes.data.images import ImageData
from recipes.provenance import Provenance
from recipes.records import read_record, to_json
from recipes.storage import read_json, write_json, writing
from recipes.training.building import build_network
from recipes.training.history import Epoch
from recipes.training.network import Network
from recipes.training.settings import RunConfig

CONFIG, RESULT, WEIGHTS = "config.json", "result.json", "model.safetensors"
MOST_CLASSES_SHOWN = 200


@dataclass(frozen=True)
class Counts:
    """Costs of head and model: parameters, and bytes in checkpoints and the optimiser's state."""

    head_parameters: int
    model_parameters: int
    checkpoint_bytes: int
    optimizer_state_bytes: int


@dataclass(frozen=True)
class RunResult:
    """One finished run."""

    config: dict[str, Any]  # the settings, by the names that they had then
    history: list[Epoch]  # of epochs that were measured, and before training
    tasks: dict[str, int]  # number of classes by task name
    gram: list[list[float]] | None  # see class_cosines()
    counts: Counts  # sizes of head, model, checkpoint and optimiser state
    provenance: Provenance  # of the run
    terminal_epoch: int | None = None  # see terminal_epoch()

    def write(self, run_dir: Path) -> None:
        """Write ``result.json``; its presence says that the run is complete."""
        write_json(run_dir / RESULT, to_json(self))

    @classmethod
    def read(cls, run_dir: Path) -> RunResult:
        """The result of a finished run.

        Raises:
            ValueError: if the file has something else.
        """
        return read_record(cls, run_dir / RESULT)


def terminal_epoch(history: Sequence[Epoch]) -> int | None:
    """First epoch after which all training images were classified right; None if there is none.

    The terminal phase of training, in which neural collapse is observed, begins there.
    """
    return next((row.epoch for row in history if min(row.train.accuracy.values()) == 1), None)


class RunSettings(Protocol):
    """What a run's directory has to know of its settings."""

    @property
    def run_dir(self) -> Path:
        """The directory."""

    @property
    def resume(self) -> bool:
        """Whether to go on with the run that is there."""

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON values."""

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Settings in which a saved run would have gone another way."""


def open_run_directory(config: RunSettings) -> RunResult | None:
    """Make the run's directory, or check that an existing one may be gone on with.

    Returns:
        The result, if the run is finished already.

    Raises:
        FileExistsError: if something is there and ``config.resume`` is not set, or if what is
            there is no run.
        ValueError: if the run that is there has other settings.
    """
    run_dir = config.run_dir
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(f"{run_dir} is a file: give another --output")
    found = run_dir.exists() and any(not p.name.endswith(".partial") for p in run_dir.iterdir())
    if not found:  # or a run was killed in its first moment
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(run_dir / CONFIG, config.to_json())
        return None
    if not (run_dir / CONFIG).exists():
        raise FileExistsError(f"{run_dir} is not empty and holds no run: give another --output")
    if not config.resume:
        raise FileExistsError(
            f"{run_dir} already holds a run: go on with it with --resume, or give another --output"
        )
    saved = read_json(run_dir / CONFIG)
    if not isinstance(saved, dict):
        raise ValueError(f"{run_dir / CONFIG} does not hold settings: give another --output")
    if differences := config.differences(saved):
        raise ValueError(
            f"the run in {run_dir} was started with other settings ({'; '.join(differences)}): "
            "resume it with its own, or give another --output"
        )
    return RunResult.read(run_dir) if (run_dir / RESULT).exists() else None


def write_weights(network: nn.Module, run_dir: Path) -> Path:
    """Write the final weights as safetensors; returns the file."""
    path = run_dir / WEIGHTS
    beside = path.with_name(f".{path.name}.partial")
    with writing(path):
        save_model(network, str(beside))
        return beside.replace(path)


def trained_network(config: RunConfig, data: ImageData) -> Network:
    """The network that a finished run left, on the device of the data."""
    network = build_network(config, data)
    load_model(network, str(config.run_dir / WEIGHTS))
    return network.to(data.train.images.device)


def class_cosines(weight: Tensor, tasks: Mapping[str, int]) -> list[list[float]] | None:
    """Cosines between class vectors, each less its task's mean; None if too many to look at."""
    if len(weight) > MOST_CLASSES_SHOWN:
        return None
    blocks = weight.detach().double().cpu().split(list(tasks.values()))
    vectors = F.normalize(torch.cat([block - block.mean(0) for block in blocks]), dim=1)
    return [[round(c, 4) for c in row] for row in (vectors @ vectors.T).tolist()]


def counts(network: nn.Module, optimizer: Callable[[list[nn.Parameter]], Optimizer]) -> Counts:
    """The costs of a network, with a ``head``, trained by this optimiser."""
    model = model_costs(network, optimizer)
    return Counts(
        head_parameters=sum(p.numel() for p in network.get_submodule("head").parameters()),
        model_parameters=model.parameters,
        checkpoint_bytes=model.checkpoint_bytes,
        optimizer_state_bytes=model.optimizer_state_bytes,
    )
