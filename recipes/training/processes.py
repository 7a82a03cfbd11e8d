"""Coordination of several processes, beyond what Accelerate does by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DataLoaderConfiguration,
    broadcast,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
)
from torch import nn

from recipes.training.settings import RunConfig

V = TypeVar("V")


def process_state() -> PartialState:
    """The rank of this process and the number of processes, before or after training.

    Raises:
        ValueError: if a launcher has started several processes that do not know of each other:
            each would do, and write, what all do together.
    """
    # Accelerator reads this variable; PartialState, if it comes first, settles it without.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != state.num_processes:
        raise ValueError(
            f"{launched} processes were launched, but Accelerate found no device that they could "
            "share work on: without a GPU, set ACCELERATE_USE_CPU=true"
        )
    return state


def make_accelerator(config: RunConfig) -> Accelerator:
    """An Accelerator that shares out batches so that a run can be resumed exactly.

    Raises:
        ValueError: if a tracker is asked for that is not installed, or processes do not know of
            each other.
    """
    process_state()
    installed = [str(tracker) for tracker in get_available_trackers()]
    missing = sorted(set(config.log_with) - set(installed))
    if missing:  # Accelerate would leave them out without a word
        raise ValueError(
            f"log_with: {', '.join(missing)} cannot be used here; installed: "
            f"{', '.join(installed) or 'none'}"
        )
    return Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation,
        log_with=list(config.log_with) or None,
        project_dir=config.run_dir,
        dataloader_config=DataLoaderConfiguration(
            split_batches=True,  # the loader's batch is that of all processes together
            use_seedable_sampler=True,  # the default order differs after a resume
            data_seed=config.seed << 20,  # epochs are added to it: no two seeds share an order
        ),
    )


def loader_batch(config: RunConfig, accelerator: Accelerator, images: int) -> int:
    """Images that the loader yields at a time, over all processes.

    Raises:
        ValueError: if the batch cannot be shared out evenly, or there are fewer images.
    """
    parts, processes = accelerator.gradient_accumulation_steps, accelerator.num_processes
    if config.batch_size % (parts * processes):
        raise ValueError(
            f"batch_size={config.batch_size} cannot be shared evenly by {processes} processes in "
            f"{parts} gradient accumulation parts: choose a multiple of {parts * processes}"
        )
    if config.batch_size > images:
        raise ValueError(f"batch_size={config.batch_size}: there are {images} training images only")
    return config.batch_size // parts


def on_main(accelerator: Accelerator | PartialState, work: Callable[[], V]) -> V:
    """Do something on the main process; all get its value, or the error that it met."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (OSError, ValueError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    value, met = outcome
    if met is not None:
        raise met
    return value


def on_all(work: Callable[[], object]) -> None:
    """Do something on every process; an error that any of them meets is raised on all."""
    met: OSError | ValueError | None = None
    try:
        work()
    except (OSError, ValueError) as error:
        met = error
    errors = [error for error in gather_object([met]) if error is not None]
    if errors:
        raise met or errors[0]


def share_buffers(network: nn.Module) -> None:
    """Give every process the main one's BatchNorm statistics.

    In training each process updates its own, and DDP aligns them only before the next batch.
    """
    for buffer in network.buffers():
        if buffer.numel():
            broadcast(buffer)


def all_finite(accelerator: Accelerator, network: nn.Module) -> bool:
    """Whether nothing in a network is NaN or infinite on any process; waits for the device."""
    faults = [value.isfinite().logical_not().any() for value in network.state_dict().values()]
    return not accelerator.reduce(torch.stack(faults).sum()).item()


def tracker_scalars(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values flattened to "a/b" names, since trackers take scalars only; without None."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= tracker_scalars(value, f"{prefix}{name}/")
        elif value is not None:
            flat[prefix + name] = value if isinstance(value, int | float | str) else str(value)
    return flat


class Stopwatch:
    """Seconds since it was made or last read, work queued on the device included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = time.perf_counter()

    def lap(self) -> float:
        """Read, and start again."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        start, self.start = self.start, time.perf_counter()
        return self.start - start
