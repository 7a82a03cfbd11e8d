"""Strategies that make one number of the losses, by scalarizers of TorchJD."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from recipes.training.network import Network
from recipes.training.strategies.equal import State, Strategy, torchjd


class ScalarizedWeighting(Strategy):
    """A scalarizer of TorchJD.

    Attributes:
        name: of the strategy.
        kind: class in ``torchjd.scalarization``.
        counts_tasks: whether that takes the number of tasks.
    """

    name: str
    kind: str
    counts_tasks = True

    def __init__(
        self, accelerator: Accelerator, network: Network, tasks: Mapping[str, int]
    ) -> None:
        super().__init__(self.name, accelerator, network, tasks)
        device, arguments = accelerator.device, [len(tasks)] if self.counts_tasks else []
        self.scalarizer = torchjd("scalarization", self.name, self.kind)(*arguments).to(device)
        chance = [math.log(classes) for classes in tasks.values()]
        self.seen = torch.tensor(chance, device=device)  # losses as they last were

    def backward(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """The scalarizer meets the losses of all processes; each then differentiates its share."""
        losses, labelled = self.of_batch(model(images, labels), labels)
        values = self._of_all(losses, labelled).requires_grad_()
        (self.scalarizer(values) / self.parts).backward()
        assert values.grad is not None  # noqa: S101
        self.accelerator.backward(losses @ (self.parts * values.grad))

    def _of_all(self, losses: Tensor, labelled: Tensor) -> Tensor:
        mean = self.accelerator.reduce(losses.detach(), "mean")
        self.seen = torch.where(labelled, mean, self.seen)
        return self.seen.clone()

    def state(self) -> State:
        """The losses, and what the scalarizer registers."""
        registered = {name: value.tolist() for name, value in self.scalarizer.state_dict().items()}
        return {"seen": self.seen.tolist(), "scalarizer": registered}

    def load(self, state: State) -> None:
        """Bring it back."""
        self.seen = self._tensor(state["seen"])
        self.scalarizer.load_state_dict(
            {name: self._tensor(value) for name, value in state["scalarizer"].items()}
        )

    def _tensor(self, values: list[float]) -> Tensor:
        return torch.tensor(values, device=self.accelerator.device)


class UncertaintyWeighting(ScalarizedWeighting):
    """Uncertainty weighting (Kendall, Gal and Cipolla, CVPR 2018): sum of exp(-s)/2 L + s/2.

    The log-variances s, one a task, start at 0 and are learned with the network.
    """

    name, kind = "uncertainty", "UW"

    def parameters(self) -> list[nn.Parameter]:
        """The log-variances."""
        return list(self.scalarizer.parameters())


class DWAWeighting(ScalarizedWeighting):
    """Dynamic weight average (Liu, Johns and Davison, CVPR 2019), temperature 2.

    The weights are T times the softmax of half the ratio of the last two epochs' mean losses.
    """

    name, kind = "dwa", "DWA"
    counts_tasks = False

    def after_epoch(self) -> None:
        """The epoch's mean losses become history."""
        self.scalarizer.step()

    def state(self) -> State:
        """With the history, which TorchJD registers nowhere."""
        total = self.scalarizer._loss_sum
        history = {
            "sum": None if total is None else total.tolist(),
            "batches": self.scalarizer._n_batches,
            "averages": [average.tolist() for average in self.scalarizer._previous_averages],
        }
        return super().state() | {"history": history}

    def load(self, state: State) -> None:
        """Bring it back."""
        super().load(state)
        history = state["history"]
        total = history["sum"]
        self.scalarizer._loss_sum = None if total is None else self._tensor(total)
        self.scalarizer._n_batches = history["batches"]
        self.scalarizer._previous_averages = [self._tensor(a) for a in history["averages"]]


class FAMOWeighting(ScalarizedWeighting):
    """FAMO (Liu, Feng, Stone and Liu, NeurIPS 2023): all losses are to fall at the same rate.

    After each step the losses of the same batch are computed again, and an Adam of its own moves
    the weights' logits towards tasks whose loss fell less.
    """

    name, kind = "famo", "FAMO"

    def __init__(
        self, accelerator: Accelerator, network: Network, tasks: Mapping[str, int]
    ) -> None:
        super().__init__(accelerator, network, tasks)
        if self.parts > 1:
            raise ValueError(
                f"weighting=famo compares a batch's losses before and after a step, and with "
                f"gradient_accumulation={self.parts} no batch is computed whole: choose 1"
            )

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Show the scalarizer the losses after the step; nothing in the network changes."""
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        with torch.no_grad():
            losses = functional_call(self.network, buffers, (images, labels), {"observe": False})
        self.scalarizer.update(self._of_all(*self.of_batch(losses, labels)))

    def state(self) -> State:
        """With the moments of its Adam, which TorchJD registers nowhere."""
        moments = self.scalarizer._optimizer.state_dict()["state"][0]
        return super().state() | {"adam": {name: m.tolist() for name, m in moments.items()}}

    def load(self, state: State) -> None:
        """Bring it back."""
        super().load(state)
        own = self.scalarizer
        adam = torch.optim.Adam(own.parameters(), lr=own.lr, weight_decay=own.weight_decay)
        moments = {name: torch.tensor(values) for name, values in state["adam"].items()}
        adam.load_state_dict(adam.state_dict() | {"state": {0: moments}})
        own._optimizer = adam
