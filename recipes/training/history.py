"""Records of a history: the state of a network at the end of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """Loss and accuracy on one split of the images.

    Attributes:
        samples: number of images.
        loss: sum over tasks of the mean over the images that have a label of the task.
        accuracy: by task, over these images.
    """

    samples: int
    loss: float
    accuracy: dict[str, float]

    @property
    def mean_accuracy(self) -> float:
        """Accuracy averaged over tasks."""
        return math.fsum(self.accuracy.values()) / len(self.accuracy)


@dataclass(frozen=True)
class Epoch:
    """Measurements at the end of an epoch.

    Attributes:
        epoch: its number; 0 is before training.
        train_seconds: of training until then, without measuring and saving.
        train: scores on the training images.
        test: scores on the test images.
        collapse: measures by name, on the training images; None where one is not defined, such as
            the angles of class vectors that are still zero.
    """

    epoch: int
    train_seconds: float
    train: Scores
    test: Scores
    collapse: dict[str, float | None]
