"""The base class of task weighting strategies, and equal weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from recipes.data.images import NO_LABEL
from recipes.training.network import Network

State = dict[str, Any]
"""JSON values."""


class EqualWeighting:
    """The sum of the losses: every task has the weight 1.

    Args:
        accelerator: of the run.
        network: not the wrapped one.
        tasks: number of classes by task name.
    """

    def __init__(
        self, accelerator: Accelerator, network: Network, tasks: Mapping[str, int]
    ) -> None:
        self.accelerator, self.network, self.tasks = accelerator, network, tasks
        self.parts = accelerator.gradient_accumulation_steps

    def parameters(self) -> list[nn.Parameter]:
        """Parameters that the strategy learns along with the network, by the same optimiser."""
        return []

    def backward(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Give the parameters their gradients.

        Args:
            model: the network as Accelerate has wrapped it.
            images: of this process, (B, C, H, W).
            labels: (B, T), ``NO_LABEL`` for none.
        """
        losses, _ = self.of_batch(model(images, labels), labels)
        self.accelerator.backward(losses.sum())

    def of_batch(self, losses: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of the whole batch from those of this process's share of it.

        Args:
            losses: means (T,) over the labelled images of this process.
            labels: its (B, T).

        Returns:
            Numbers (T,) whose mean over processes is the mean over all labelled images; and which
            tasks have labels anywhere, (T,).
        """
        mine = (labels != NO_LABEL).sum(0)
        labelled = self.accelerator.reduce(mine)
        share = mine * self.accelerator.num_processes / labelled.clamp(min=1)
        return losses * share, labelled > 0

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Called with the same batch after the optimiser's step."""

    def after_epoch(self) -> None:
        """Called at the end of each epoch."""

    def state(self) -> State:
        """The state that a checkpoint keeps."""
        return {}

    def load(self, state: State) -> None:
        """Bring it back."""


class Strategy(EqualWeighting):
    """A strategy that has tasks to weigh."""

    def __init__(
        self, name: str, accelerator: Accelerator, network: Network, tasks: Mapping[str, int]
    ) -> None:
        super().__init__(accelerator, network, tasks)
        if len(tasks) < 2:
            raise ValueError(f"weighting={name} has nothing to weigh in one task: choose equal")
        if accelerator.mixed_precision == "fp16":
            raise ValueError(
                f"weighting={name} goes by the losses and gradients of every step; with "
                "mixed_precision=fp16 these are scaled, and steps are skipped: choose bf16 or no"
            )


def torchjd(package: str, strategy: str, name: str | None = None) -> Any:
    """A package of TorchJD, or something in it."""
    try:
        module = import_module(f"torchjd.{package}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"weighting={strategy} is computed by TorchJD, which is not installed: "
            'pip install "etf_heads[recipes]"'
        ) from error
    return module if name is None else getattr(module, name)
