"""Runs of one process that have a loop of their own: how they begin and end."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer

from recipes.provenance import provenance
from recipes.training.history import Epoch
from recipes.training.processes import process_state
from recipes.training.result import RunResult, RunSettings, counts, open_run_directory


def begin(run: RunSettings, what: str) -> RunResult | None:
    """As :func:`~recipes.training.result.open_run_directory`.

    Args:
        run: its settings.
        what: what it is, in an error.

    Raises:
        ValueError: also if there are several processes.
    """
    if (processes := process_state().num_processes) > 1:
        raise ValueError(
            f"{processes} processes were launched: {what} takes one. Start the program with "
            "python; --jobs trains several runs at once"
        )
    return open_run_directory(run)


def finish(
    run: RunSettings,
    network: nn.Module,
    history: list[Epoch],
    tasks: dict[str, int],
    optimizer: Callable[[list[nn.Parameter]], Optimizer],
) -> RunResult:
    """Write the result of a network with a ``head``, trained by this optimiser."""
    result = RunResult(
        config=run.to_json(),
        history=history,
        tasks=tasks,
        gram=None,
        counts=counts(network, optimizer),
        provenance=provenance(next(network.parameters()).device),
    )
    result.write(run.run_dir)
    return result
