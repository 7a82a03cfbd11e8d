"""Settings of a run in sessions, and the heads that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recipes.data import DataOptions
from recipes.records import differences

if TYPE_CHECKING:
    from torch import nn

    from etf_heads.heads import FeatureNorm

DataName = Literal["digits", "mnist"]
HeadName = Literal[
    "learned",
    "learned-norm",
    "no-bias",
    "cosine",
    "random-rows",
    "etf",
    "etf-4",
    "etf-plain",
    "etf-random",
    "etf-canonical",
]

REDUCED: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 30},
    "mnist": {"epochs": 8, "train_images": 5_000},
}
"""Settings of each data set at which a run takes seconds on one CPU core."""

_WITHOUT_EFFECT = {"root", "download", "output", "resume", "jobs"}


@dataclass(frozen=True, kw_only=True)
class SessionsRun:
    """One network that learns ten classes in five sessions of two.

    Attributes:
        data: the data set.
        head: in ``HEADS``.
        buffer: share of each earlier class's training images that is kept and replayed, drawn once
            by the seed; at least one image, unless it is 0.
        seed: of the weights, the batches and the buffer. Runs of one seed that differ by their head
            start from the same backbone and see the same batches.
        epochs: passes over the images of each session.
        train_images: in all; None for as many as there are.
        batch_size: images of the session in a step; as many replayed ones come on top.
        lr: of SGD, constant.
        momentum: of SGD, which starts anew with each session.
        weight_decay: of SGD, on everything that is learned.
        hidden: units of the hidden layer.
        features: size of what the head sees.
        classes: of each session.
        root: directory of the data files.
        download: let torchvision fetch files that are not there.
        output: directory of the run.
        resume: go on with the run that is in it, if there is one.
        jobs: how many runs share the machine, this one included.
    """

    data: DataName = "digits"
    head: HeadName = "learned-norm"
    buffer: float = 0.02
    seed: int = 0
    epochs: int = 30
    train_images: int | None = None
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    hidden: int = 256
    features: int = 64
    classes: int = 2
    root: Path = Path("data")
    download: bool = False
    output: Path | None = None
    resume: bool = False
    jobs: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.buffer <= 1:
            raise ValueError(f"buffer={self.buffer}: a share of the images, from 0 to 1, is needed")
        if self.head not in HEADS:
            raise ValueError(f"head={self.head!r}: choose from {', '.join(HEADS)}")
        for name, least in (("seed", 0), ("epochs", 1), ("batch_size", 2), ("classes", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: at least {least} is needed")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr}: must be above 0")

    @property
    def run_dir(self) -> Path:
        """The directory that the run writes to."""
        name = f"{self.head}-buffer{self.buffer:g}-seed{self.seed}"
        return self.output or Path("runs") / "replay" / self.data / name

    @property
    def data_options(self) -> DataOptions:
        """The request for the data set."""
        if self.data == "digits":
            return DataOptions(train_images=self.train_images)
        return DataOptions(train_images=self.train_images, root=self.root, download=self.download)

    def to_json(self) -> dict[str, Any]:
        """All settings that the result depends on, as JSON values."""
        return {k: value for k, value in asdict(self).items() if k not in _WITHOUT_EFFECT}

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Settings in which a saved run differs, as "name: saved -> now"."""
        return differences(self.to_json(), saved)


HeadBuilder = Callable[[int, Mapping[str, int]], "nn.Module"]
"""Makes a head for so many features and classes by task name; see ``recipes.training.heads``."""


def _linear(
    features: int, tasks: Mapping[str, int], *, bias: bool = True, norm: FeatureNorm = "batch"
) -> nn.Module:
    from etf_heads.heads import LinearHead

    return LinearHead(features, tasks, bias, feature_norm=norm)


def _unit_rows(features: int, tasks: Mapping[str, int], *, learned: bool) -> nn.Module:
    """The rows of nn.Linear divided by their lengths, learned or as they start."""
    from recipes.training.unit_rows import with_unit_rows

    return with_unit_rows(_linear(features, tasks, bias=False), 1.0).requires_grad_(learned)


def _etf(
    features: int,
    tasks: Mapping[str, int],
    *,
    orientation: str | None = None,
    scale: float = 1.0,
    norm: FeatureNorm = "batch",
) -> nn.Module:
    import torch

    from etf_heads import CompoundETFHead

    if orientation == "random":  # another one for each seed of a run
        orientation = f"random:{int(torch.randint(1 << 31, ()))}"
    return CompoundETFHead(features, tasks, orientation=orientation, scale=scale, feature_norm=norm)


HEADS: dict[HeadName, HeadBuilder] = {
    "learned": partial(_linear, norm=None),
    "learned-norm": _linear,
    "no-bias": partial(_linear, bias=False),
    "cosine": partial(_unit_rows, learned=True),
    "random-rows": partial(_unit_rows, learned=False),
    "etf": _etf,
    "etf-4": partial(_etf, scale=4.0),
    "etf-plain": partial(_etf, norm=None),
    "etf-random": partial(_etf, orientation="random"),
    "etf-canonical": partial(_etf, orientation="canonical"),
}
"""Heads by name, behind batch normalisation without parameters but for learned and etf-plain:
nn.Linear without and with it, and without a bias; learned class vectors of length 1; the same,
frozen as they start; simplex ETFs of lengths 1 and 4, of length 1 without normalisation, in an
orientation drawn by the seed, and in as few coordinates as they need."""
