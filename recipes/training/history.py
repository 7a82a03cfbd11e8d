"""Records of a history: the state of a network at the end of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """Loss and accuracy on one split of the images."""

    samples: int  # number of images
    loss: float  # sum over tasks of the mean over the images that have a label of the task
    accuracy: dict[str, float]  # by task, over these images; empty for a regression

    @property
    def mean_accuracy(self) -> float:
        """Accuracy averaged over tasks; NaN for a regression."""
        tasks = len(self.accuracy)
        return math.fsum(self.accuracy.values()) / tasks if tasks else math.nan


@dataclass(frozen=True)
class Epoch:
    """Measurements at the end of an epoch."""

    epoch: int  # its number; 0 is before training
    train_seconds: float  # of training until then, without measuring and saving
    train: Scores  # scores on the training images
    test: Scores  # scores on the test images
    collapse: dict[str, float | None]  # by measure, on the training images; None: not defined
