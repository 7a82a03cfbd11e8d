"""Collapse of training and of test features, by the size of the training set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from etf_heads.collapse import VarianceCollapse
from recipes.claims.claim import Claim, Criterion, Evidence, Plan, Record, Relation, Variant, extras
from recipes.data.images import ImageData, ImageSet
from recipes.intervals import interval, rank_correlation
from recipes.pages.tables import Line, measured
from recipes.training.network import Network
from recipes.training.result import RunResult

SIZES = (500, 1_000, 2_000, 4_000, 8_000)
BATCH, STEPS = 250, 640

REDUCED = {
    "data": "mnist",
    "head": "learned",
    "backbone": "cnn",
    "image_size": 16,
    "width": 16,
    "features": 60,
    "test_images": 2_000,
    "augment": False,
    "batch_size": BATCH,
    "lr": 1e-2,
    "weight_decay": 1.0,
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


def judge(evidence: Evidence) -> list[Criterion]:
    """More images collapse less in training, and more in testing."""
    return [
        Criterion(
            f"rank correlation of the number of images and the {split} variance",
            correlations(evidence, split),
            relation,
            threshold,
            "the paper: the larger the training set, the less its features collapse in so many "
            "steps, and the more those of test images do",
        )
        for split, relation, threshold in _RULES
    ]


def correlations(evidence: Evidence, split: Literal["train", "test"]) -> list[float]:
    """Rank correlation over sizes of the training set, a number for each seed."""
    values = zip(*(_variances(records, split) for records in evidence.values()), strict=True)
    return [rank_correlation(range(len(own)), own) for own in values]


def _variances(records: Sequence[Record], split: Literal["train", "test"]) -> list[float]:
    return [getattr(found, split) for found in extras(records, Variances)]


def lines(evidence: Evidence) -> list[Line]:
    """Both variances, and the training loss."""
    return [
        (
            "train variance",
            *(measured(interval(_variances(r, "train"))) for r in evidence.values()),
        ),
        ("test variance", *(measured(interval(_variances(r, "test"))) for r in evidence.values())),
        (
            "training loss",
            *(
                measured(interval([record.history[-1].train.loss for record in records]))
                for records in evidence.values()
            ),
        ),
    ]


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
