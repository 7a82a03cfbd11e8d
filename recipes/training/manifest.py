"""``manifest.json``: what a checkpoint says of itself, and whether that is so.

It has the SHA-256 of every file of the checkpoint, and of itself, so that damage is noticed; and
the settings of the run, since two runs may save tensors of the same names and shapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipes.storage import read_json, sha256, write_json

FORMAT = 2
MANIFEST = "manifest.json"
_OWN = "own_sha256"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: epochs finished.
        step: optimiser steps taken in the epoch after them.
        train_seconds: time spent training until here, measuring and saving not included.
        history: one record an epoch, see :func:`recipes.training.engine.train`.
        weighting: what the task weighting strategy has to remember.
    """

    epoch: int = 0
    step: int = 0
    train_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    weighting: dict[str, Any] = field(default_factory=dict)


def write_manifest(
    checkpoint: Path, config: Mapping[str, Any], processes: int, progress: Progress
) -> None:
    """Describe the files that are in a directory.

    Args:
        checkpoint: the directory.
        config: settings of the run, as JSON values.
        processes: how many saved these files.
        progress: where the run stands.
    """
    manifest = {
        "format": FORMAT,
        "processes": processes,
        "config": config,
        "progress": asdict(progress),
        "sha256": {path.name: sha256(path) for path in sorted(checkpoint.iterdir())},
    }
    write_json(checkpoint / MANIFEST, manifest | {_OWN: _digest(manifest)})


def whole_manifest(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; of another format, no more than that is looked at.

    Raises:
        OSError: if a file is missing.
        ValueError: if one is not as it was written, or no run can have written it.
    """
    manifest = read_json(checkpoint / MANIFEST)
    try:
        if manifest.pop(_OWN) != _digest(manifest):
            raise ValueError(f"{MANIFEST} is not the file that was written")
        if not isinstance(manifest["format"], int):
            raise ValueError(f"its format is {manifest['format']!r:.80}")
        if manifest["format"] == FORMAT:
            if not (isinstance(manifest["processes"], int) and _sound(manifest["progress"])):
                raise ValueError(f"its {MANIFEST} does not say where the run stood")
            dict(**manifest["config"])
            _check_files(checkpoint, manifest["sha256"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its {MANIFEST} is incomplete ({error!r})") from error
    return dict(manifest)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _check_files(checkpoint: Path, digests: Mapping[str, str]) -> None:
    # Names come from the directory, so that the manifest cannot lead out of it.
    there = {path.name: path for path in checkpoint.iterdir() if path.name != MANIFEST}
    if differing := sorted(there.keys() ^ digests.keys()):
        raise ValueError(f"{differing[0]!r:.80} is not both in it and in its {MANIFEST}")
    for name, path in there.items():
        if not path.is_file() or sha256(path) != digests[name]:
            raise ValueError(f"{name} is not the file that was written")


def _sound(progress: Mapping[str, Any]) -> bool:
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
