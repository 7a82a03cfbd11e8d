"""Checkpoints that are whole or not there, and from which a run goes on exactly.

A checkpoint is a directory: what Accelerate saves of the model, the optimiser, the schedule and the
random generators, and ``manifest.json``, written last, with everything else and the SHA-256 of each
file and of the manifest itself. The directory is filled under another name and moved into place, so
that a run killed at any moment leaves the checkpoints before it untouched. Our own state is JSON,
never something registered with Accelerate, which it would unpickle; the rest is loaded with
``weights_only=True``.

A damaged checkpoint is skipped, and replaced when the run comes to its step again. One that is
whole but not of this run, or of a later version, is never replaced: the run is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from recipes.config import RunConfig
from recipes.launch import on_all, on_main
from recipes.storage import read_json, sha256, write_json, writing

FORMAT = 2
"""Format 1 is read as well: its manifests have neither settings nor a SHA-256 of their own."""
KEEP = 2
MANIFEST = "manifest.json"


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
        manifest = {
            "format": FORMAT,
            "processes": accelerator.num_processes,
            "config": config.to_json(),
            "progress": asdict(progress),
            "sha256": {path.name: sha256(path) for path in sorted(filling.iterdir())},
        }
        write_json(filling / MANIFEST, manifest | {"own_sha256": _digest(manifest)})
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
        ValueError: if it is of a run with other settings, or of a later version.
    """
    for checkpoint in _finished(config):
        try:
            manifest = _whole_manifest(checkpoint)
        except (OSError, ValueError) as error:
            warnings.warn(f"skipping the checkpoint {checkpoint}: {error}", stacklevel=2)
            continue
        if manifest["format"] > FORMAT:
            raise ValueError(
                f"{checkpoint} has the format {manifest['format']}, this version reads up to "
                f"{FORMAT}: resume it with the version that wrote it, or give another --output"
            )
        if differences := config.differences(manifest.get("config", config.to_json())):
            raise ValueError(
                f"{checkpoint} is of a run with other settings ({'; '.join(differences)}): take it "
                "away, or give another --output"
            )
        return checkpoint
    return None


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> Progress:
    """Put everything back as it was saved; called by every process."""
    manifest = read_json(checkpoint / MANIFEST)
    if manifest["processes"] != accelerator.num_processes:
        warnings.warn(
            f"{checkpoint} was written by {manifest['processes']} processes and is resumed by "
            f"{accelerator.num_processes}: the run goes on, but not to exactly the same metrics",
            stacklevel=2,
        )
    accelerator.load_state(str(checkpoint))
    return Progress(**manifest["progress"])


def _directory(config: RunConfig) -> Path:
    return config.run_dir / "checkpoints"


def _finished(config: RunConfig) -> list[Path]:
    """Checkpoints under their final names, newest first."""
    return sorted(
        (path for path in _directory(config).glob("epoch*-step*") if path.suffix != ".partial"),
        reverse=True,
    )


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _whole_manifest(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; of a later format, no more than that is looked at.

    Raises:
        OSError: if a file is missing.
        ValueError: if one is not as it was written.
    """
    manifest = read_json(checkpoint / MANIFEST)
    try:
        own = manifest.pop("own_sha256", None)
        if manifest["format"] != 1 and own != _digest(manifest):
            raise ValueError(f"{MANIFEST} is not the file that was written")
        if manifest["format"] <= FORMAT:
            for name, digest in manifest["sha256"].items():
                if sha256(checkpoint / name) != digest:
                    raise ValueError(f"{name} is not the file that was written")
            Progress(**manifest["progress"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its {MANIFEST} is incomplete ({error!r})") from error
    return manifest
