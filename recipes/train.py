"""Train one run: ``accelerate launch recipes/train.py PRESET --head HEAD``.

On one process ``python recipes/train.py PRESET`` is the same. The preset "multi-digits" takes about
six seconds on two CPU cores. ``--help`` after the preset explains every setting.
"""

from __future__ import annotations

from recipes.command import command
from recipes.training.presets import parse_config
from recipes.training.settings import RunConfig


def main() -> None:
    """Train what the command line says, and print where it ended."""
    config = parse_config(RunConfig)
    with command():
        from recipes.training.engine import train
        from recipes.training.processes import process_state

        result = train(config)
        state = process_state()
    last = result.history[-1]
    accuracies = ", ".join(f"{task} {a:.2%}" for task, a in last.test.accuracy.items())
    state.print(
        f"{config.run_dir}: test accuracy {accuracies} after {last.epoch} epochs, "
        f"{last.train_seconds:.1f} s of training"
    )
    state.print(_terminal_phase(result.terminal_epoch, last.epoch))
    state.destroy_process_group()


def _terminal_phase(start: int | None, end: int) -> str:
    if start is None:
        return "training accuracy did not reach 100%: what was measured is no terminal phase"
    return f"training accuracy was 100% after epoch {start} of {end}: the terminal phase began"


if __name__ == "__main__":
    main()
