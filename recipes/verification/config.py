"""Options of the command line of ``recipes/theory.py``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from recipes.command import check_each_once
from recipes.data import SHARES, binary_digits_name
from recipes.training.presets import PRESETS
from recipes.training.settings import HeadName, RunConfig, Settings


@dataclass(frozen=True)
class Grid:
    """Gradient descent on unconstrained feature models against closed forms and the solver.

    Attributes:
        starts: random starts of each problem; a line keeps the worst of them.
        random_problems: random joint label distributions in the general case.
        tolerance: a line agrees when none of its deviations is above this.
        small: one line of a kind, for a first look.
        output: directory of theory.json and theory.html.
    """

    starts: int = 3
    random_problems: int = 8
    tolerance: float = 1e-4
    small: bool = False
    output: Path = Path("runs/theory")

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"starts={self.starts}: at least 1 is needed")
        if self.random_problems < 0:
            raise ValueError(f"random_problems={self.random_problems}: must not be negative")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance}: must be above 0")


@dataclass(frozen=True)
class Images:
    """Learned and fixed heads on images whose two binary labels agree more and more often.

    Attributes:
        shares: shares of the 4,000 training images on which the labels agree.
        heads: what is trained; the angle is measured of the learned ones.
        seeds: each head is trained with each of them; intervals need two or more.
        epochs: passes over the training images.
        weight_decay: of AdamW, on matrices and convolutions.
        resume: keep the runs that are finished, and go on with those that are not.
        output: directory of the runs, theory_images.json and theory_images.html.
    """

    shares: tuple[float, ...] = SHARES
    heads: tuple[HeadName, ...] = ("learned", "learned-norm", "compound", "correlated")
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 12
    weight_decay: float = 1.0
    resume: bool = False
    output: Path = Path("runs/theory")

    def __post_init__(self) -> None:
        check_each_once(self, "shares", "heads", "seeds")
        if unknown := [share for share in self.shares if share not in SHARES]:
            raise ValueError(f"shares={unknown}: data sets are there for {SHARES}")

    def runs(self) -> list[tuple[float, RunConfig]]:
        """Share and settings of every run, seed by seed."""
        shared = self._settings()
        return [
            (
                share,
                replace(
                    shared,
                    data=binary_digits_name(share),
                    head=head,
                    seed=seed,
                    output=self.output / "runs" / f"{share:g}-{head}-seed{seed}",
                ),
            )
            for seed in self.seeds
            for share in self.shares
            for head in self.heads
        ]

    def shared_settings(self) -> dict[str, Any]:
        """Settings that all runs have in common, as JSON values."""
        values = self._settings().to_json()
        names = {field.name for field in fields(Settings)} - {"preset", "data", "resume"}
        return {name: value for name, value in values.items() if name in names}

    def _settings(self) -> RunConfig:
        return replace(
            PRESETS["multi-digits"][1],
            preset="theory",
            feature_norm="batch",
            epochs=self.epochs,
            weight_decay=self.weight_decay,
            resume=self.resume,
        )


@dataclass(frozen=True)
class Landscape:
    """Critical points of small models under several losses, and flow from a Hadamard start."""

    starts: int = 8  # of each model, at each of its scales
    seed: int = 10  # of all starts
    output: Path = Path("runs/theory")  # directory of theory_landscape.json and .html

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise ValueError(f"starts={self.starts}: at least 1 is needed")


Command = (
    Annotated[Grid, tyro.conf.subcommand("grid")]
    | Annotated[Images, tyro.conf.subcommand("images")]
    | Annotated[Landscape, tyro.conf.subcommand("landscape")]
)
"""Either of them; by default the grid."""
