"""Equal tuning: the same number of trials over the same grid for every head of a comparison.

A learned head at its best settings against a fixed one at the learned one's (or the other way
round) says little: accuracy follows decay and learning rate more than the choice of head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from recipes.comparison.summary import mean_accuracy
from recipes.storage import read_json, write_json
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

HELD_OUT = 0.2
"""Share of the training images that trials are judged by; they train on the others."""

SEED = 1_000
"""Of all trials: runs that are reported have other ones."""

Train = Callable[[RunConfig], RunResult]


@dataclass(frozen=True)
class Trial:
    """One combination of settings that was tried.

    Attributes:
        settings: what sets it apart.
        accuracy: on the images held out, mean over tasks; None if training diverged.
    """

    settings: dict[str, Any]
    accuracy: float | None


@dataclass(frozen=True)
class Tuned:
    """What tuning tried, and found best.

    Attributes:
        trials: in the order in which they were run; the first is of the settings as given.
        settings: those of the best.
    """

    trials: tuple[Trial, ...]
    settings: dict[str, Any]

    @property
    def accuracy(self) -> float | None:
        """Of the best trial."""
        return next(t.accuracy for t in self.trials if t.settings == self.settings)


def grid(config: RunConfig) -> dict[str, tuple[float, ...]]:
    """Values of each setting that is tuned, most telling setting first, the given value first.

    Every head has the learning rate, the weight decay and one lever of its own: the decay of its
    last linear maps, or the temperature where the loss is of cosines, which do not feel that decay.
    """
    own = (
        {"head_decay": (config.head_decay, 10.0, 20.0)}
        if config.loss == "cross-entropy"
        else {"temperature": (config.temperature, 0.1, 1.0)}
    )
    shared = {
        name: tuple(getattr(config, name) * factor for factor in (1.0, 3.0, 1 / 3))
        for name in ("weight_decay", "lr")
    }
    return own | shared


def tune(config: RunConfig, trials: int, train: Train) -> Tuned:
    """Coordinate search over the grid: one setting after the other, the best value of each kept.

    Args:
        config: what to tune; trials are written below its directory, and a search that was
            interrupted goes on.
        trials: how many runs, the settings as given included. All settings are gone through
            again, at the best of the others, as long as there are trials left.
        train: as :func:`recipes.training.engine.train`.

    Raises:
        ValueError: if there are no trials, or all of them diverged.
    """
    if trials < 1:
        raise ValueError(f"tune={trials}: at least 1 trial is needed")
    place = config.run_dir / "tuned.json"
    if place.exists() and len((found := _read(place)).trials) == trials:
        return found
    done: list[Trial] = []
    for settings in _candidates(grid(config), done):
        done.append(Trial(settings, _accuracy(config, settings, len(done), train)))
        if len(done) == trials:
            break
    best = _best(done)
    if best.accuracy is None:
        raise ValueError(
            f"{config.head}, {config.loss}: all {trials} trials diverged: lower --lr to begin with"
        )
    tuned = Tuned(tuple(done), best.settings)
    write_json(place, asdict(tuned))
    return tuned


def _candidates(
    values: dict[str, tuple[float, ...]], done: list[Trial]
) -> Iterator[dict[str, Any]]:
    """Settings to try next, given what became of those before."""
    yield {name: choices[0] for name, choices in values.items()}
    while True:
        before = len(done)
        for name, choices in values.items():
            start = _best(done).settings
            for choice in choices:
                candidate = start | {name: choice}
                if all(trial.settings != candidate for trial in done):
                    yield candidate
        if len(done) == before:  # nothing new is left around the best
            return


def _best(done: list[Trial]) -> Trial:
    """The first of the most accurate."""
    return max(done, key=lambda trial: -1.0 if trial.accuracy is None else trial.accuracy)


def _accuracy(
    config: RunConfig, settings: dict[str, Any], number: int, train: Train
) -> float | None:
    trial = replace(
        config,
        **settings,
        seed=SEED,
        validation=HELD_OUT,
        measure_every=max(1, config.epochs),
        output=config.run_dir / f"trial{number}",
        resume=True,
    )
    try:
        return mean_accuracy(train(trial).history[-1])
    except FloatingPointError:
        return None


def _read(place: Path) -> Tuned:
    found = read_json(place)
    return Tuned(tuple(Trial(**trial) for trial in found["trials"]), found["settings"])
