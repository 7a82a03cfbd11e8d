"""Checkpoints that are whole or not there, and from which a run goes on exactly.

A checkpoint is a directory: what Accelerate saves of the model, the optimiser, the schedule and the
random generators, and a manifest, written last. The directory is filled under another name and
moved into place, so that a run killed at any moment leaves the checkpoints before it untouched.
The manifest has the settings of the run and the SHA-256 of every file and of itself.

A damaged checkpoint is skipped, and replaced when the run comes to its step again. One that is
whole but not of this run, or of another version, is never replaced: the run is refused.

Whoever wrote it, what is loaded runs no code: our own state is JSON, never something registered
with Accelerate, which it would unpickle; the rest is loaded with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME, load
from safetensors import SafetensorError

from recipes.records import from_json, to_json
from recipes.storage import read_json, sha256, write_json, writing
from recipes.training.history import Epoch
from recipes.training.processes import on_all, on_main
from recipes.training.settings import RunConfig

KEEP = 2
FORMAT = 3
MANIFEST = "manifest.json"
_OWN = "own_sha256"
_UNREADABLE = (EOFError, OSError, SafetensorError, pickle.UnpicklingError)


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        epoch: epochs finished.
        step: optimiser steps taken in the epoch after them.
        train_seconds: time spent training until here, measuring and saving not included.
        history: one record for each epoch that was measured.
        weighting: what the task weighting strategy has to remember.
    """

    epoch: int = 0
    step: int = 0
    train_seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    weighting: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(accelerator: Accelerator, config: RunConfig, progress: Progress) -> None:
    """Write a checkpoint, then delete all older ones but the last; called by every process.

    Args:
        accelerator: whose prepared objects are saved.
        config: of the run.
        progress: where the run stands.

    Raises:
        OSError: if it cannot be written; those that are there stay as they are.
    """
    final = _directory(config) / f"epoch{progress.epoch:05d}-step{progress.step:07d}"
    filling = final.with_name(f"{final.name}.partial")

    def begin() -> None:
        with writing(filling):
            for left in final.parent.glob("*.partial"):  # by runs that were stopped here
                shutil.rmtree(left)
            filling.mkdir(parents=True)

    def fill() -> None:
        with writing(filling):
            accelerator.save_state(str(filling))

    def end() -> None:
        processes = accelerator.num_processes
        _write_manifest(filling, config.to_json(), processes, progress)
        if final.exists():  # a damaged one, that this run did not resume from
            shutil.rmtree(final)
        filling.replace(final)
        older = [path for path in _finished(config) if path.name < final.name]
        for old in older[KEEP - 1 :]:
            shutil.rmtree(old)

    on_main(accelerator, begin)
    on_all(fill)
    on_main(accelerator, end)


def newest_checkpoint(config: RunConfig) -> Path | None:
    """The newest checkpoint of a run that is whole; damaged ones are named in warnings.

    Raises:
        ValueError: if it is of a run with other settings, or of another version.
    """
    for checkpoint in _finished(config):
        try:
            manifest = _whole_manifest(checkpoint)
        except (OSError, ValueError) as error:
            warnings.warn(f"skipping the checkpoint {checkpoint}: {error}", stacklevel=2)
            continue
        if manifest["format"] != FORMAT:
            raise ValueError(
                f"{checkpoint} has the format {manifest['format']}, this version reads {FORMAT}: "
                "resume it with the version that wrote it, or give another --output"
            )
        if differences := config.differences(manifest["config"]):
            raise ValueError(
                f"{checkpoint} is of a run with other settings ({'; '.join(differences)}): take it "
                "away, or give another --output"
            )
        return checkpoint
    return None


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> Progress:
    """Put everything back as it was saved; called by every process.

    Raises:
        ValueError: if the files are those of the manifest, but not what this run saves.
    """
    manifest = read_json(checkpoint / MANIFEST)
    if manifest["processes"] != accelerator.num_processes:
        warnings.warn(
            f"{checkpoint} was written by {manifest['processes']} processes and is resumed by "
            f"{accelerator.num_processes}: the run goes on, but not to exactly the same metrics",
            stacklevel=2,
        )
    try:
        accelerator.load_state(str(checkpoint))
        if manifest["processes"] == accelerator.num_processes:
            _check_generator(checkpoint / f"{RNG_STATE_NAME}_{accelerator.process_index}.pkl")
    except (*_UNREADABLE, KeyError, RuntimeError, TypeError, ValueError) as error:
        fault = str(error).partition("\n")[0]
        raise ValueError(
            f"{checkpoint} cannot be loaded ({fault}): delete it, and the run goes on from the one "
            "before"
        ) from error
    return from_json(Progress, manifest["progress"])


def _check_generator(file: Path) -> None:
    """ValueError if the random generator is not as saved: Accelerate does not say so."""
    if not torch.equal(load(file)["torch_manual_seed"], torch.get_rng_state()):
        raise ValueError(f"the random generators were not put back from {file.name}")


def _directory(config: RunConfig) -> Path:
    return config.run_dir / "checkpoints"


def _finished(config: RunConfig) -> list[Path]:
    """Checkpoints under their final names, newest first."""
    return sorted(
        (path for path in _directory(config).glob("epoch*-step*") if path.suffix != ".partial"),
        reverse=True,
    )


def _write_manifest(
    checkpoint: Path, config: Mapping[str, Any], processes: int, progress: Progress
) -> None:
    manifest = {
        "format": FORMAT,
        "processes": processes,
        "config": config,
        "progress": to_json(progress),
        "sha256": _digests(checkpoint),
    }
    write_json(checkpoint / MANIFEST, manifest | {_OWN: _digest(manifest)})


def _whole_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest; ValueError or OSError if it, or a file it names, is not as it was written."""
    manifest = read_json(checkpoint / MANIFEST)
    if not isinstance(manifest, dict) or manifest.pop(_OWN, None) != _digest(manifest):
        raise ValueError(f"{MANIFEST} is not the file that was written")
    if manifest["format"] == FORMAT:
        digests = _digests(checkpoint)
        for name in digests | manifest["sha256"]:
            if digests.get(name) != manifest["sha256"].get(name):
                raise ValueError(f"{name} is not the file that was written")
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digests(checkpoint: Path) -> dict[str, str]:
    """Digests of all files of a directory but the manifest."""
    files = sorted(path for path in checkpoint.iterdir() if path.name != MANIFEST)
    if others := [path.name for path in files if not path.is_file()]:  # to read one may not end
        raise ValueError(f"{others[0]} is not the file that was written")
    return {path.name: sha256(path) for path in files}
