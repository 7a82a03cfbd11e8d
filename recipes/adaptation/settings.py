"""Settings of a pretraining, and of what follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from recipes.adaptation.images import TRANSFERS
from recipes.data import DataOptions
from recipes.records import differences
from recipes.training.heads import HEADS
from recipes.training.settings import RunConfig

if TYPE_CHECKING:
    from etf_heads.heads import FeatureNorm

ALL, HEAD = "all", "head"
"""Parts of a network to tune: everything, or the new head alone."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Training by SGD with momentum 0.9, at a learning rate that falls to 0 along a cosine.

    Attributes:
        epochs: passes over the images.
        lr: highest learning rate.
        weight_decay: on everything that is learned.
        batch_size: images of a step, at most.
        augment: shift images at random, and mirror them, as far as their set allows.
    """

    epochs: int
    lr: float
    weight_decay: float = 0.0
    batch_size: int = 64
    augment: bool = False

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: at least {least} is needed")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """What pretraining and adaptation have in common: a seed, files, a directory.

    Attributes:
        seed: of the images drawn, the weights and the batches.
        root: directory of the data files.
        download: let torchvision fetch files that are not there.
        output: directory of the run.
        resume: take the result that is in it, if there is one.
        jobs: how many runs share the machine, this one included.
    """

    seed: int = 0
    root: Path = Path("data")
    download: bool = False
    output: Path
    resume: bool = True
    jobs: int = 1

    without_effect: ClassVar = {"root", "download", "output", "resume", "jobs"}

    @property
    def run_dir(self) -> Path:
        """The directory that the run writes to."""
        return self.output

    @property
    def data_options(self) -> DataOptions:
        """The request for the data set."""
        return DataOptions(root=self.root, download=self.download)

    def to_json(self) -> dict[str, Any]:
        """All settings that the result depends on, as JSON values."""
        return _with_effect(asdict(self), self.without_effect)

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Settings in which a saved run differs, as "name: saved -> now"."""
        return differences(self.to_json(), saved)


def _with_effect(values: Mapping[str, Any], left_out: set[str]) -> dict[str, Any]:
    """Nested settings as JSON has them, but for some names."""
    found = {}
    for name, value in values.items():
        if name not in left_out:
            nested = _with_effect(value, left_out) if isinstance(value, Mapping) else value
            found[name] = list(nested) if isinstance(nested, tuple) else nested
    return found


@dataclass(frozen=True, kw_only=True)
class Pretraining(Seeded):
    """A network trained on the first of two tasks, with nn.Linear as its head.

    Attributes:
        images: name of both tasks in ``recipes.adaptation.images.TRANSFERS``.
        backbone: as in the settings of training.
        width: of the backbone.
        features: size of the features.
        schedule: of the training.
        checkpoints: epochs after which weights and measurements are kept, and the last always.
        layers: modules of the network whose variance is measured there.
    """

    images: str
    backbone: str
    width: int
    features: int
    schedule: Schedule
    checkpoints: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images not in TRANSFERS:
            raise ValueError(f"images={self.images!r}: choose from {', '.join(TRANSFERS)}")
        if not all(0 < epoch <= self.schedule.epochs for epoch in self.checkpoints):
            raise ValueError(
                f"checkpoints={self.checkpoints}: epochs from 1 to {self.schedule.epochs} are "
                "needed"
            )

    @property
    def kept(self) -> tuple[int, ...]:
        """Epochs after which weights are kept, in order."""
        return tuple(sorted({*self.checkpoints, self.schedule.epochs}))

    def weights(self, epoch: int) -> Path:
        """The file of the weights of a checkpoint."""
        return self.run_dir / f"epoch{epoch}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Adaptation(Seeded):
    """A pretrained network with a new head, trained on the second task.

    Attributes:
        source: the pretraining; run first, unless its result is there. Its seed is this run's.
        checkpoint: epoch of it to start from; by default the last.
        head: new head, by its name in ``recipes.training.heads.HEADS``.
        scale: length of class vectors that are not learned.
        feature_norm: normalisation of the features before heads other than "learned".
        part: what is tuned beside the head: "all", "head" for nothing, or the name of a module of
            the network, as in ``etf_heads.surgery.tune_layer``.
        skip: whether that module's output is added to the features.
        schedule: of the tuning.
        rates: learning rates that are tried in place of the schedule's; the one with the highest
            accuracy on the images held out is reported.
    """

    source: Pretraining
    checkpoint: int | None = None
    head: str = "learned"
    scale: float = 1.0
    feature_norm: FeatureNorm = None
    part: str = ALL
    skip: bool = False
    schedule: Schedule
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head={self.head!r}: choose from {', '.join(HEADS)}")
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"rates={self.rates}: learning rates above 0 are needed")
        if self.source.seed != self.seed:
            raise ValueError(f"seed={self.seed}: the pretraining has {self.source.seed}")
        if self.start not in self.source.kept:
            raise ValueError(
                f"checkpoint={self.checkpoint}: the pretraining keeps those of epochs "
                f"{', '.join(map(str, self.source.kept))}"
            )
        if self.skip and self.part in (ALL, HEAD):
            raise ValueError(f"skip=True with part={self.part!r}: name one module to tune")

    @property
    def start(self) -> int:
        """The epoch of the checkpoint to start from."""
        return self.source.schedule.epochs if self.checkpoint is None else self.checkpoint


def of_config(config: RunConfig) -> dict[str, Any]:
    """Settings that mean the same here as in any other run."""
    return {name: getattr(config, name) for name in ("seed", "root", "download", "jobs")}
