"""Collapse of training and of test features, by the size of the training set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from etf_heads.collapse import VarianceCollapse
from recipes.claims.claim import SMALL_CNN, Claim, Criterion, Plan, Relation, Variant
from recipes.claims.record import Evidence, examined, row
from recipes.data.images import ImageData, ImageSet
from recipes.intervals import rank_correlation
from recipes.pages.tables import Line
from recipes.training.network import Network
from recipes.training.result import RunResult

SIZES = (500, 1_000, 2_000, 4_000, 8_000)
BATCH, STEPS = 250, 640

REDUCED = SMALL_CNN | {
    "data": "mnist",
    "head": "learned",
    "image_size": 16,
    "test_images": 2_000,
    "augment": False,
    "batch_size": BATCH,
    "measure_every": 1_000,
}
"""MNIST at 16 x 16 pixels, without augmentation, and the same number of steps at each size."""

VARIANTS = {
    f"{size:,} images": Variant({"train_images": size, "epochs": STEPS * BATCH // size})
    for size in SIZES
}


@dataclass(frozen=True)
class Variances:
    """Within-class variance over that of the class means to their average."""

    train: float
    test: float


@torch.inference_mode()
def examine(network: Network, data: ImageData, result: RunResult) -> Variances:  # noqa: ARG001
    """Variances of the features of training and test images."""
    (classes,) = data.tasks.values()
    measure = VarianceCollapse(network.head.weight.shape[1], classes, test_samples=0)
    for images, labels in _batches(data.train):
        measure.update(network.features(images), labels, "train")
    for images, labels in _batches(data.test):
        measure.update(network.features(images), labels, "test")
    found = measure.compute()
    return Variances(found["train_variance"], found["strong_test_variance"])


def _batches(images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(images.images.split(1_000), images.labels[:, 0].split(1_000), strict=True)


_RULES: tuple[tuple[Literal["train", "test"], Relation, float], ...] = (
    ("train", "at least", 0.8),
    ("test", "at most", -0.8),
)
"""Split, and the rank correlation that its variance has to have with the size."""


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """More images collapse less in training, and more in testing."""
    for split, relation, threshold in _RULES:
        yield Criterion(
            f"rank correlation of the number of images and the {split} variance",
            correlations(evidence, split),
            relation,
            threshold,
            "the paper: the larger the training set, the less its features collapse in so many "
            "steps, and the more those of test images do",
        )


def correlations(evidence: Evidence, split: Literal["train", "test"]) -> list[float]:
    """Rank correlation over sizes of the training set, a number for each seed."""
    by_size = (examined(records, Variances, split) for records in evidence.values())
    return [rank_correlation(range(len(own)), own) for own in zip(*by_size, strict=True)]


def lines(evidence: Evidence) -> Iterator[Line]:
    """Both variances, and the training loss."""
    for split in ("train", "test"):
        yield row(f"{split} variance", evidence, partial(examined, kind=Variances, name=split))
    yield row("training loss", evidence, lambda own: [r.history[-1].train.loss for r in own])


CLAIM = Claim(
    name="variance",
    title="Collapse of training and of test features, by the size of the training set",
    says=(
        "“Limitations of neural collapse for understanding generalization in deep learning” (Hui, "
        "Belkin and Nakkiran, 2022): collapse of the training features is a matter of optimisation "
        "and that of test features one of generalisation, so that a larger training set has more "
        "of the first variance and less of the second. Here a CNN is trained on 500 to 8,000 "
        f"images of MNIST, with {STEPS} steps at each size. (Trained to an equal loss instead, "
        "sizes did not differ that way in a run before; the paper trains to a loss of 1e-6.)"
    ),
    plans={
        "reduced": Plan("multi-digits", REDUCED, VARIANTS, seeds=(10, 11, 12)),
        "full": Plan(
            "multi-digits", REDUCED | {"image_size": 28, "width": 64, "features": 128}, VARIANTS
        ),
    },
    judge=judge,
    measures=(),
    examine=examine,
    lines=lines,
)
