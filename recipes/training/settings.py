"""Settings of a run, and of several: frozen, typed records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from recipes.command import check_each_once
from recipes.data import DATASETS, DataOptions, check_options
from recipes.records import differences
from recipes.training.backbones import backbone
from recipes.training.heads import HEADS
from recipes.training.weighting import WEIGHTINGS

if TYPE_CHECKING:
    DataName = str
    HeadName = str
    WeightingName = str
else:  # the registries are the only list of names; --help and the parser read them
    DataName = tyro.extras.literal_type_from_choices(DATASETS)
    HeadName = tyro.extras.literal_type_from_choices(HEADS)
    WeightingName = tyro.extras.literal_type_from_choices(WEIGHTINGS)

TRIAL_SEED = 1_000
"""Of every trial of tuning; runs that are reported have other seeds."""

LossName = Literal[
    "cross-entropy",
    "label-smoothing",
    "focal",
    "squared-error",
    "logit-adjusted",
    "normalized",
    "ntce",
    "nonl",
    "centre-cosine",
    "pick-all-labels",
]
OF_LOGITS = {"label-smoothing": 0.1, "focal": 2.0, "squared-error": 1.0, "logit-adjusted": 1.0}
"""Losses of logits that have a number, and what it is by default."""
OF_COSINES = ("normalized", "ntce", "nonl")


@dataclass(frozen=True, kw_only=True)
class Settings(DataOptions):
    """Settings of a run that do not depend on its head.

    Attributes:
        preset: name of the preset these settings started from.
        data: the image set, and with it the tasks.
        augment: shift training images at random, and mirror them where that keeps their meaning.
        backbone: the network that turns images into features: cnn, vgg11, vgg13, resnet18,
            resnet34, timm/NAME for any model of timm, or mlpDEPTH for so many fully connected
            layers of equal width with batch normalisation and ReLU (mlp7-no-norm and mlp7-no-relu
            lack one of them).
        width: channels of the backbone's first stage; the others follow from it (64 for the
            original VGG and ResNet). Models of timm have their own; of mlpDEPTH, units a layer.
        features: size of the feature vector that the head sees. Large backbones have features
            of their own (8 times the width for VGG and ResNet), which a linear projection
            brings to this size if it is another. Batch-normalised features have
            equal variance in every coordinate; so have collapsed ones in front of a tiled head
            if this is a multiple of the number of class vectors.
        feature_norm: parameter-free normalisation of the features before the head, for every
            head but "learned". Without, features have a length to grow by, and head_decay a lever;
            behind "batch" they collapse sooner, and small data is learned by heart at a loss.
        scale: length of the class vectors of fixed heads.
        learn_scale: whether fixed heads learn that one number, from there.
        bias: whether fixed heads learn a bias a class.
        assign: epochs (also fractions, 0 for the start) at which heads of many classes, whose
            vectors are fixed, give each class the one nearest to its mean feature.
        align: share of the angle by which the class vectors of nn.Linear turn to the means of their
            classes after each epoch, for long tails; other heads stay as they are.
        warm_up_logits: epochs over which the logits of training rise from nothing to full length,
            with every head.
        weighting: how the tasks' losses become one step. "equal" adds them up; uncertainty, dwa and
            famo weigh them; mgda, pcgrad and fairgrad weigh their gradients in the backbone.
        loss: cross-entropy of the head's logits; the same with label smoothing, or of logits plus
            the logarithms of class frequencies in training (logit-adjusted, for long tails); focal
            loss; squared error against centred targets. Or, of features and class vectors of unit
            length, cross-entropy of their cosines (normalized), or what contrasts each image's
            class vector with the features of the batch (ntce, nonl; see etf_heads.losses). These
            three go with feature_norm unit, by which decisions are those of the cosines. Or the
            squared distance from 1 of the cosines with the centres of the right class
            (centre-cosine, for the heads multi-centre). Data of label sets goes with
            pick-all-labels, the sum of the cross-entropies of all labels of an image, and nothing
            else does.
        loss_parameter: the share that label smoothing takes (0.1), the exponent of focal loss (2),
            the gap that squared error asks for (1), the weight of the logarithms of frequencies
            (1); by default the numbers in parentheses. Other losses have none.
        temperature: what the cosines of these three are divided by.
        epochs: passes over the training images.
        batch_size: images an optimiser step, over all processes and accumulation steps together.
            Order, augmentation and loss are the same on any number of processes; statistics of
            batch normalisation are those of each process's share of the batch, so steps differ
            by them where a backbone, or feature_norm "batch", has any.
        optimizer: adamw, or SGD with Nesterov's momentum of 0.9.
        lr: highest learning rate; it rises over the first tenth of the run and falls to zero along
            a cosine.
        weight_decay: on matrices and convolutions (biases and norms have none). Learned class
            vectors need a strong one to collapse within a short run.
        head_decay: weight_decay times this is the sum over the last two linear maps, projection
            and head: half each where the head is learned, all of it on the projection where it is
            fixed. 2 is what two ordinary layers have; with few images more (10, 20) helps either.
        gradient_accumulation: parts a batch is computed in, when it does not fit in memory whole.
        mixed_precision: arithmetic of the forward pass; by default what the launcher says.
        compile: train the backbone as torch.compile makes it, which takes a C++ compiler (on a
            GPU: Triton) and, in the first step, up to minutes of train_seconds. Sums are rounded
            in another order and dropout draws other masks, so the metrics are not those of the
            same run without it. Measuring, and the head, stay as they are.
        measure_every: epochs between measurements; the first and the last state are measured
            always. Measuring every epoch takes up to a third of the time.
        log_with: trackers that get the history too, such as tensorboard or wandb.
        checkpoint_every: optimiser steps between checkpoints; 0 writes one at the end of each
            epoch.
        resume: go on from the newest whole checkpoint in the output directory, if there is one.
            The metrics are those of a run that was never interrupted.
    """

    preset: tyro.conf.Suppress[str]
    data: DataName
    augment: bool = True
    backbone: str = "cnn"
    width: int = 16
    features: int = 60
    feature_norm: Literal["batch", "layer", "unit"] | None = None
    scale: float = 1.0
    learn_scale: bool = False
    bias: bool = False
    assign: tuple[float, ...] = ()
    align: float = 0.0
    warm_up_logits: int = 0
    weighting: WeightingName = "equal"
    loss: LossName = "cross-entropy"
    loss_parameter: float | None = None
    temperature: float = 0.3
    epochs: int = 12
    batch_size: int = 250
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-2
    weight_decay: float = 1.0
    head_decay: float = 2.0
    gradient_accumulation: int = 1
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    compile: bool = False
    measure_every: int = 1
    log_with: tuple[str, ...] = ()
    checkpoint_every: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if Path(self.preset).name != self.preset or self.preset == "..":
            raise ValueError(f"preset={self.preset!r}: a name is needed, not a path")
        _among(self, data=DATASETS, weighting=WEIGHTINGS)
        check_options(self.data, self)
        backbone(self.backbone)
        _at_least(
            self,
            width=1,
            features=1,
            epochs=0,
            warm_up_logits=0,
            batch_size=1,
            gradient_accumulation=1,
            measure_every=1,
            checkpoint_every=0,
        )
        if any(not 0 <= epoch < max(self.epochs, 1) for epoch in self.assign):
            raise ValueError(
                f"assign={self.assign}: epochs from 0 to below {self.epochs} are needed"
            )
        if not 0 <= self.align <= 1:
            raise ValueError(f"align={self.align}: a share from 0 to 1 is needed")
        for name in ("lr", "scale", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        for name in ("weight_decay", "head_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        _check_loss(self)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """Train one network with one classifier head, measure it every epoch, write down the result.

    Attributes:
        head: the classifier head. The learned heads are nn.Linear, on the features as they come
            (learned) or behind the feature_norm that the fixed heads get (learned-norm).
        seed: of the weights, the order of the images and their augmentation. The data set is the
            same for all seeds, so that runs of one seed can be paired.
        output: directory of the run; by default runs/PRESET/HEAD-seedSEED.
        jobs: how many runs share the machine, this one included: its times depend on it.
    """

    head: HeadName = "compound"
    seed: int = 0
    output: Path | None = None
    jobs: tyro.conf.Suppress[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _among(self, head=HEADS)
        _at_least(self, seed=0)
        if self.head == "learned-norm" and self.feature_norm is None:
            raise ValueError(
                "head='learned-norm' is the learned head behind feature_norm, and there is none: "
                "choose feature_norm from batch, layer, unit, or head='learned'"
            )

    @property
    def run_dir(self) -> Path:
        """The directory that the run writes to."""
        return self.output or Path("runs") / self.preset / f"{self.head}-seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Settings in which a saved run would have gone another way, as "name: saved -> now".

        A setting that the saved run does not have had its default: defaults are what was done
        before there was a choice. One that only the saved run has is a difference.
        """
        defaults = {f.name: _plain(f.default) for f in fields(self) if f.default is not MISSING}
        return differences(_with_effect(self.to_json()), _with_effect(defaults | saved))


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Settings):
    """Train several heads with several seeds, and write a report that puts them side by side.

    Attributes:
        heads: what to compare; the first is the baseline of the others.
        seeds: each head is trained with each of them; intervals need two or more.
        output: directory of runs and report; by default runs/PRESET.
        jobs: train so many runs at once, each in a process of its own. Small networks leave most
            of a GPU idle, but seconds are those of a shared one then.
        tune: so many trials for each head before the seeds, each a run of its own; 0 for none, and
            every head gets the settings as they are. To be used before a head is chosen, or called
            better: accuracy follows learning rate and decay more than the head, so settings made
            for one head, or for none, mislead in either direction. Each head is given the same
            number of trials over the same grid (head_decay, or temperature with losses of cosines;
            then weight_decay; then lr; 7 go through it once), judged by a fifth of the training
            images, on which they do not train; the test images stay unseen. What was chosen is
            printed, and nn.Linear with the settings as they are stands beside the tuned heads.
    """

    heads: tuple[HeadName, ...] = ("learned", "compound", "compound-hadamard")
    seeds: tuple[int, ...] = (0, 1, 2)
    output: Path | None = None
    jobs: int = 1
    tune: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_each_once(self, "heads", "seeds")
        _at_least(self, tune=0)
        if self.tune and TRIAL_SEED in self.seeds:
            raise ValueError(f"seeds={self.seeds}: {TRIAL_SEED} is the seed of the trials of tune")
        if self.tune and self.validation:
            raise ValueError(
                f"validation={self.validation} with tune={self.tune}: runs would be judged by the "
                "images that their settings were chosen by; give one of them"
            )
        self.runs()  # which check their heads and seeds

    @property
    def report_dir(self) -> Path:
        """The directory of the runs and their report."""
        return self.output or Path("runs") / self.preset

    def runs(self, chosen: Mapping[str, Mapping[str, Any]] | None = None) -> list[RunConfig]:
        """The runs to compare, seed by seed, so that a break leaves whole comparisons.

        Args:
            chosen: settings of each head that tuning chose, by its name.
        """
        return [
            replace(self._run(head, seed, f"{head}-seed{seed}"), **(chosen or {}).get(head, {}))
            for seed in self.seeds
            for head in self.heads
        ]

    def searches(self) -> list[RunConfig]:
        """What to tune, a head each; nothing without ``tune``."""
        heads = self.heads if self.tune else ()
        return [self._run(head, TRIAL_SEED, f"{head}-tuning") for head in heads]

    def plain_runs(self) -> list[RunConfig]:
        """nn.Linear with the settings as they are, to stand beside tuned heads, a seed each."""
        seeds = self.seeds if self.tune else ()
        return [self._run("learned", seed, f"plain-seed{seed}") for seed in seeds]

    def _run(self, head: str, seed: int, place: str) -> RunConfig:
        shared = {f.name: getattr(self, f.name) for f in fields(Settings)} | {"jobs": self.jobs}
        return RunConfig(**shared, head=head, seed=seed, output=self.report_dir / place)


def _check_loss(settings: Settings) -> None:
    if settings.loss_parameter is not None and settings.loss not in OF_LOGITS:
        raise ValueError(
            f"loss_parameter={settings.loss_parameter}: loss={settings.loss!r} has none; those "
            f"that have one are {', '.join(OF_LOGITS)}"
        )
    if settings.loss == "cross-entropy":
        return
    if settings.loss in OF_COSINES and settings.feature_norm != "unit":
        raise ValueError(
            f"loss={settings.loss!r} is of features of unit length: it goes with feature_norm=unit"
        )
    if settings.weighting != "equal" or settings.warm_up_logits:
        raise ValueError(
            f"loss={settings.loss!r} goes with weighting=equal and without warm_up_logits"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _among(settings: Settings, **known: Mapping[str, object]) -> None:
    for name, names in known.items():
        if getattr(settings, name) not in names:
            raise ValueError(f"{name}={getattr(settings, name)!r}: choose from {', '.join(names)}")


def _at_least(settings: Settings, **lowest: int) -> None:
    for name, least in lowest.items():
        value = getattr(settings, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value}: at least {least} is needed")


_WITHOUT_EFFECT = {"log_with", "output", "checkpoint_every", "resume", "preset", "download", "jobs"}
"""Settings that a resumed run may change: its metrics do not depend on them."""


def _with_effect(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _WITHOUT_EFFECT}
