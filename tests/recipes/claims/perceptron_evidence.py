"""Made-up runs that support the claims of ``recipes/claims/perceptrons.py``."""

from dataclasses import replace

from recipes.claims.geometric_complexity import REDUCED, SETTINGS, STOP
from recipes.claims.record import Record
from recipes.training.history import Epoch, Scores
from recipes.training.result import Counts

RANKS = {
    "L = 2, decay 0.001": (10,),
    "L = 2, decay 0.005": (10,),
    "L = 4, decay 0.001": (6, 7, 9),
    "L = 4, decay 0.003": (5, 5, 8),
}
REGRESSION = {
    "learned": {"nmse": 0.6, "nrc1": 0.1, "nrc2": 0.1, "nrc3": 0.1},
    "fixed": {"nmse": 0.59, "nrc1": 0.05, "nrc2": 0.1, "nrc3": 0.0},
    "identity": {"nmse": 0.6, "nrc1": 0.05, "nrc2": 0.1, "nrc3": 0.3},
}


def finished(collapse, *, epoch=2, loss=0.01, accuracy=1.0):
    """A record after so many epochs; no accuracy where it is None."""
    scores = Scores(4, loss, {} if accuracy is None else {"digit": accuracy})
    return Epoch(epoch, 1.0, scores, scores, dict(collapse))


def run(*history, seed=0, settings=None):
    """A run with this history after its start."""
    start = replace(history[0], epoch=0, train=replace(history[0].train, loss=2.0))
    return Record(
        seed=seed,
        history=[start, *history],
        tasks=dict.fromkeys(start.train.accuracy, 10),
        gram=None,
        counts=Counts(0, 5, 5, 90),
        settings={"seed": seed} | (settings or {}),
    )


def low_rank(variant):
    """A network of these ranks."""
    ranks = {f"rank {layer}": float(rank) for layer, rank in enumerate(RANKS[variant], 2)}
    return run(finished(ranks | {"nc1_ratio": 0.01}, accuracy=0.999))


def regression(variant):
    """A regression with the head of the variant."""
    return run(finished(REGRESSION[variant.partition(": ")[2]], accuracy=None))


def geometric_complexity(variant):
    """A network whose measures fall together, variant by variant."""
    place = list(SETTINGS).index(variant)
    numbers = {"gc": 60.0 - place, "cdnv": 0.17 - 0.01 * place, "bound": 0.3}
    epochs = REDUCED["epochs"]
    return run(
        finished(numbers, epoch=10, loss=STOP),
        finished(numbers | {"cdnv": 0.5}, epoch=epochs, loss=0.001),
        settings={"epochs": epochs},
    )


RUNS = {
    "low-rank": low_rank,
    "regression": regression,
    "geometric-complexity": geometric_complexity,
}
