"""Equal tuning: the same number of trials over the same grid for every head of a comparison.

A learned head at its best settings against a fixed one at the learned one's (or the other way
round) says little: accuracy follows decay and learning rate more than the choice of head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from recipes.records import from_json, to_json
from recipes.storage import read_json, write_json
from recipes.training.processes import on_main, process_state
from recipes.training.result import RunResult
from recipes.training.settings import TRIAL_SEED, RunConfig

HELD_OUT = 0.2
"""Share of the training images that trials are judged by; they train on the others."""

RECORD = "tuned.json"
"""What a search has tried so far, in its directory."""

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
        return best_trial(self.trials).accuracy


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The first of the most accurate."""
    return max(trials, key=lambda trial: -1.0 if trial.accuracy is None else trial.accuracy)


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

    Every process of a launch calls this; the main one prints what each trial found.

    Args:
        config: what to tune. Trials are written below its directory, and a search that was
            interrupted, or had fewer trials, goes on after the last one that ended.
        trials: how many runs, the settings as given included. All settings are gone through
            again, at the best of the others, as long as there are trials left; then the rest of
            the grid. There are no more than it has points.
        train: as :func:`recipes.training.engine.train`.

    Raises:
        ValueError: if there are no trials, all of them diverged, or those found in the directory
            are of other settings.
    """
    if trials < 1:
        raise ValueError(f"tune={trials}: at least 1 trial is needed")
    known, done, state = _ended(config), list[Trial](), process_state()
    for settings in _candidates(grid(config), done):
        number = len(done)
        if number < len(known) and known[number].settings == settings:
            done.append(known[number])
        else:
            done.append(Trial(settings, _accuracy(config, settings, number, train)))
            on_main(state, lambda: _write(config, done))
            state.print(_in_words(config, done, trials), flush=True)
        if len(done) == trials:
            break
    best = best_trial(done)
    if best.accuracy is None:
        raise ValueError(
            f"{config.head}, {config.loss}: all {len(done)} trials diverged: lower --lr to begin "
            "with"
        )
    return Tuned(tuple(done), best.settings)


def choice_in_words(settings: Mapping[str, float]) -> str:
    """Such as "head decay 2, weight decay 1, lr 0.01"."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in settings.items())


def _candidates(
    values: dict[str, tuple[float, ...]], done: list[Trial]
) -> Iterator[dict[str, Any]]:
    """Settings to try next, given what became of those before: in the end, the whole grid."""
    whole = [dict(zip(values, choices, strict=True)) for choices in product(*values.values())]

    def new(candidates: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        return (c for c in candidates if all(trial.settings != c for trial in done))

    yield whole[0]
    before = 0
    while len(done) > before:  # until nothing new is left around the best
        before = len(done)
        for name, choices in values.items():
            start = best_trial(done).settings
            yield from new(start | {name: choice} for choice in choices)
    yield from new(whole)  # so that every head has as many trials


def _accuracy(
    config: RunConfig, settings: dict[str, Any], number: int, train: Train
) -> float | None:
    trial = replace(
        config,
        **settings,
        seed=TRIAL_SEED,
        validation=HELD_OUT,
        measure_every=max(1, config.epochs),
        output=config.run_dir / f"trial{number}",
        resume=True,
    )
    try:
        return train(trial).history[-1].test.mean_accuracy
    except FloatingPointError:
        return None


def _ended(config: RunConfig) -> list[Trial]:
    """The trials that an earlier search of the same settings recorded."""
    place = config.run_dir / RECORD
    if not place.exists() or "config" not in (found := read_json(place)):
        return []
    if differences := config.differences(found["config"]):
        raise ValueError(
            f"{place} is of trials with other settings ({'; '.join(differences)}): give another "
            "--output"
        )
    return list(from_json(Tuned, found).trials)


def _write(config: RunConfig, done: list[Trial]) -> None:
    config.run_dir.mkdir(parents=True, exist_ok=True)
    found = to_json(Tuned(tuple(done), best_trial(done).settings))
    write_json(config.run_dir / RECORD, {"config": config.to_json()} | found)


def _in_words(config: RunConfig, done: list[Trial], trials: int) -> str:
    last = done[-1]
    found = "diverged" if last.accuracy is None else f"{last.accuracy:.2%} on images held out"
    return (
        f"{config.run_dir.name}: trial {len(done)} of {trials}, "
        f"{choice_in_words(last.settings)}: {found}"
    )
