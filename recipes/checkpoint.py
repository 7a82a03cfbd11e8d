"""Checkpoints that are whole or not there, and from which a run goes on exactly.

A checkpoint is a directory: what Accelerate saves of the model, the optimiser, the schedule and the
random generators, and ``manifest.json``, written last, with everything else and the SHA-256 of each
file. The directory is filled under another name and moved into place, so that a run killed at any
moment leaves the checkpoints before it untouched.

Whoever wrote it, what is loaded runs no code: our own state is JSON, never something registered
with Accelerate, which it would unpickle; the rest is loaded with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME, load
from safetensors import SafetensorError

from recipes.storage import read_json, sha256, write_json

FORMAT = 1
KEEP = 2
MANIFEST = "manifest.json"
_UNREADABLE = (EOFError, OSError, SafetensorError, pickle.UnpicklingError)


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: epochs finished.
        step: optimiser steps taken in the epoch after them.
        train_seconds: time spent training until here, measuring and saving not included.
        history: one record an epoch, see :func:`recipes.engine.train`.
        weighting: what the task weighting strategy has to remember.
    """

    epoch: int = 0
    step: int = 0
    train_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    weighting: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(accelerator: Accelerator, directory: Path, progress: Progress) -> None:
    """Write a checkpoint, then delete all but the last two; called by every process.

    Args:
        accelerator: whose prepared objects are saved.
        directory: of all checkpoints of the run.
        progress: where the run stands.
    """
    name = f"epoch{progress.epoch:05d}-step{progress.step:07d}"
    filling, final = directory / f"{name}.partial", directory / name
    if accelerator.is_main_process:
        shutil.rmtree(filling, ignore_errors=True)  # left by a run that was killed here
        filling.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(filling))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        files = {path.name: sha256(path) for path in sorted(filling.iterdir())}
        manifest = {
            "format": FORMAT,
            "processes": accelerator.num_processes,
            "progress": asdict(progress),
            "sha256": files,
        }
        write_json(filling / MANIFEST, manifest)
        if final.exists():  # a corrupt one, that this run did not resume from
            shutil.rmtree(final)
        filling.replace(final)
        for old in _finished(directory)[KEEP:]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that is whole; others are named in warnings."""
    for checkpoint in _finished(directory):
        fault = _fault(checkpoint)
        if fault is None:
            return checkpoint
        warnings.warn(f"skipping the checkpoint {checkpoint}: {fault}", stacklevel=2)
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
    return Progress(**manifest["progress"])


def _check_generator(file: Path) -> None:
    """ValueError if the random generator is not as saved: Accelerate does not say so."""
    if not torch.equal(load(file)["torch_manual_seed"], torch.get_rng_state()):
        raise ValueError(f"the random generators were not put back from {file.name}")


def _finished(directory: Path) -> list[Path]:
    """Checkpoints under their final names, newest first."""
    return sorted(
        (path for path in directory.glob("epoch*-step*") if path.suffix != ".partial"),
        reverse=True,
    )


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']!r:.80}, this version reads {FORMAT}"
        if not (isinstance(manifest["processes"], int) and _sound(manifest["progress"])):
            return f"its {MANIFEST} does not say where the run stood"
        return _fault_of_files(checkpoint, manifest["sha256"])
    except (OSError, ValueError) as error:
        return str(error)
    except (KeyError, TypeError, AttributeError) as error:
        return f"its {MANIFEST} is incomplete ({error!r})"


def _fault_of_files(checkpoint: Path, digests: dict[str, str]) -> str | None:
    # Names come from the directory, so that the manifest cannot lead out of it.
    there = {path.name: path for path in checkpoint.iterdir() if path.name != MANIFEST}
    if differing := sorted(there.keys() ^ digests.keys()):
        return f"{differing[0]!r:.80} is not both in it and in its {MANIFEST}"
    for name, path in there.items():
        if not path.is_file() or sha256(path) != digests[name]:
            return f"{name} is not the file that was written"
    return None


def _sound(progress: dict[str, Any]) -> bool:
    """Whether a run can have stood there."""
    found = Progress(**progress)
    return (
        all(isinstance(n, int) and n >= 0 for n in (found.epoch, found.step))
        and isinstance(found.train_seconds, int | float)
        and isinstance(found.history, list)
        and len(found.history) == found.epoch + 1  # the first is from before training
        and all(isinstance(row, dict) for row in found.history)
        and isinstance(found.weighting, dict)
    )
