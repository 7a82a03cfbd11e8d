"""Options of the runs of claims."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Size = Literal["reduced", "full"]
"""Minutes on two CPU cores; or what the papers train, for which a GPU is needed."""


@dataclass(frozen=True)
class Request:
    """Options of the runs of claims.

    Attributes:
        size: reduced takes minutes a claim on two CPU cores; full is what papers train, for a GPU.
        root: directory of the data files, as torchvision lays them out.
        download: let torchvision fetch files that are not there.
        seeds: train with these in place of each claim's own.
        epochs: train for so long in place of each claim's own.
        jobs: train so many runs at once, each in a process of its own; seconds are those of a
            shared machine then.
        output: directory of runs, results and pages. Finished runs in it are not run again, and
            a run that was killed goes on.
    """

    size: Size = "reduced"
    root: Path = Path("data")
    download: bool = False
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    jobs: int = 1
    output: Path = Path("runs/paper")
