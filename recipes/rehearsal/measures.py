"""Measurements after each session: accuracies of head and probe, distortion of the buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads.collapse import BufferDistortion, forgetting
from recipes.data.images import ImageSet
from recipes.training.history import Epoch, Scores
from recipes.training.network import Network, evaluate


@dataclass(frozen=True)
class Seen:
    """The data of a run up to a session.

    Attributes:
        train: training images of all classes so far, numbered in the order in which they came.
        test: test images of the same classes.
        buffer: indices of the training images that were replayed in the session.
        classes: number of classes of each session.
    """

    train: ImageSet
    test: ImageSet
    buffer: Tensor
    classes: int

    @property
    def count(self) -> int:
        """Number of classes so far."""
        return int(self.train.labels.max()) + 1

    @property
    def current(self) -> range:
        """Classes of the session."""
        return range(self.count - self.classes, self.count)


@torch.no_grad()
def measure(network: Network, seen: Seen, history: Sequence[Epoch], train_seconds: float) -> Epoch:
    """The record of a session, which is one epoch of a run's history.

    Accuracies are by session, "1", "2", ..., of decisions among all classes so far: row i of the
    accuracy matrix A_ij. ``collapse`` has those of the probe, logistic regression fitted to the
    features of all training images so far; from the second session on, ``shallow`` and ``deep``
    forgetting and the distortion of the buffer.

    Args:
        network: which is left in evaluation mode.
        seen: the data until now.
        history: records of the sessions before.
        train_seconds: of training until now.
    """
    network.eval()
    features, train = _scores(network, seen, seen.train)
    test_features, test = _scores(network, seen, seen.test)
    labels, tests = seen.train.labels[:, 0], seen.test.labels[:, 0]
    right = _probe(features, labels, test_features) == tests
    probe = {f"probe {task}": value for task, value in _by_session(right, tests, seen).items()}
    row = Epoch(len(history) + 1, train_seconds, train, test, dict(probe))
    if not history:
        return row
    rows = [*history, row]
    lost = forgetting(
        _matrix([list(one.test.accuracy.values()) for one in rows]),
        _matrix([[v for k, v in one.collapse.items() if k.startswith("probe")] for one in rows]),
    )
    distortion = BufferDistortion(features.shape[1], seen.count).to(features.device)
    distortion.update(features, labels, "population")
    distortion.update(features[seen.buffer], labels[seen.buffer], "buffer")
    row.collapse.update(
        (name, None if math.isnan(value) else value)
        for name, value in (lost | distortion.compute(seen.current)).items()
    )
    return row


def _scores(network: Network, seen: Seen, data: ImageSet) -> tuple[Tensor, Scores]:
    """Features as class vectors meet them, and loss and accuracy among the classes so far."""
    features, logits = evaluate(network, data)
    logits, labels = logits[:, 0, : seen.count], data.labels[:, 0]
    accuracy = _by_session(logits.argmax(1) == labels, labels, seen)
    loss = float(F.cross_entropy(logits.double(), labels))
    return features, Scores(len(data), loss, accuracy)


def _by_session(right: Tensor, labels: Tensor, seen: Seen) -> dict[str, float]:
    """The share of right decisions on the classes of each session."""
    session = labels // seen.classes
    return {
        str(s + 1): float(right[session == s].double().mean())
        for s in range(seen.count // seen.classes)
    }


def _matrix(rows: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """Rows of growing length as a square, 0 for the sessions that were yet to come."""
    return [[v or 0.0 for v in row] + [0.0] * (len(rows) - len(row)) for row in rows]


def _probe(features: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Decisions about other features of logistic regression on standardised ones."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5_000))
    probe.fit(features.double().cpu().numpy(), labels.cpu().numpy())
    return torch.from_numpy(probe.predict(others.double().cpu().numpy())).to(labels.device)
