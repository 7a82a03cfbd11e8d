"""Task weighting strategies: how the losses of several tasks become one step.

Two kinds stand beside the sum of the losses, both computed by TorchJD:

- **Scalarizers** (uncertainty, DWA, FAMO) make one number of the losses. Its gradient is the sum of
  the losses' own, weighted by its derivatives, so one ordinary backward pass does for everything.
- **Aggregators** (MGDA, PCGrad, FairGrad) make one gradient of the Jacobian, a row for each task.
  They see the parameters that the tasks share, which are those of the backbone, and set their
  gradient. The classifier of a learned head belongs to the tasks: it keeps the sum of their
  gradients. Fixed heads have no parameters: with them, the aggregator sets all gradients there are.

What a strategy decides from, losses or Jacobian, is that of the batch of all processes together, so
the same run on more processes takes the same steps (but for BatchNorm, whose statistics each
process takes from its own share). A task of which no image in the batch has a label has no
gradient: an aggregator does not see it, and to a scalarizer its loss stays what it last was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.func import functional_call

from recipes.training.measure import multitask_loss, task_losses

if TYPE_CHECKING:
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
        """What the strategy learns along with the network, by the same optimiser."""
        return []

    def backward(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Give the parameters their gradients.

        Args:
            model: the network as Accelerate has wrapped it.
            images: of this process, (B, C, H, W).
            labels: (B, T), -1 for none.
        """
        self.accelerator.backward(multitask_loss(model(images, labels), labels))

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Called with the same batch after the optimiser's step."""

    def after_epoch(self) -> None:
        """Called at the end of each epoch."""

    def state(self) -> State:
        """What a resume has to bring back."""
        return {}

    def load(self, state: State) -> None:
        """Bring it back."""


class _Strategy(EqualWeighting):
    """What all other strategies share."""

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

    def _losses(self, logits: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Shares whose mean over processes are the tasks' losses; which tasks have labels: (T,)."""
        labelled = self.accelerator.reduce((labels >= 0).sum(0))
        each = labelled.clamp(min=1) / self.accelerator.num_processes
        return task_losses(logits, labels) / each, labelled > 0


class ScalarizedWeighting(_Strategy):
    """A scalarizer of TorchJD.

    Args:
        name: of the strategy.
        scalarizer: class in ``torchjd.scalarization``.
        accelerator: of the run.
        network: not the wrapped one.
        tasks: number of classes by task name.
        arguments: of the scalarizer.
    """

    def __init__(
        self,
        name: str,
        scalarizer: str,
        accelerator: Accelerator,
        network: Network,
        tasks: Mapping[str, int],
        *arguments: Any,
    ) -> None:
        super().__init__(name, accelerator, network, tasks)
        device = accelerator.device
        self.scalarizer = _torchjd("scalarization", name, scalarizer)(*arguments).to(device)
        chance = [math.log(classes) for classes in tasks.values()]
        self.seen = torch.tensor(chance, device=device)  # losses as they last were

    def backward(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """The scalarizer meets the losses of all processes; each then differentiates its share."""
        losses, labelled = self._losses(model(images, labels), labels)
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

    def __init__(
        self, accelerator: Accelerator, network: Network, tasks: Mapping[str, int]
    ) -> None:
        super().__init__("uncertainty", "UW", accelerator, network, tasks, len(tasks))

    def parameters(self) -> list[nn.Parameter]:
        """The log-variances."""
        return list(self.scalarizer.parameters())


class DWAWeighting(ScalarizedWeighting):
    """Dynamic weight average (Liu, Johns and Davison, CVPR 2019), temperature 2.

    The weights are T times the softmax of half the ratio of the last two epochs' mean losses.
    """

    def __init__(
        self, accelerator: Accelerator, network: Network, tasks: Mapping[str, int]
    ) -> None:
        super().__init__("dwa", "DWA", accelerator, network, tasks)

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

    def __init__(
        self, accelerator: Accelerator, network: Network, tasks: Mapping[str, int]
    ) -> None:
        super().__init__("famo", "FAMO", accelerator, network, tasks, len(tasks))
        if self.parts > 1:
            raise ValueError(
                f"weighting=famo compares a batch's losses before and after a step, and with "
                f"gradient_accumulation={self.parts} no batch is computed whole: choose 1"
            )

    def after_step(self, images: Tensor, labels: Tensor) -> None:
        """Show the scalarizer the losses after the step; nothing in the network changes."""
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        with torch.no_grad():
            logits = functional_call(self.network, buffers, (images,))
        self.scalarizer.update(self._of_all(*self._losses(logits, labels)))

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


class AggregatedWeighting(_Strategy):
    """An aggregator of TorchJD that goes by the Gramian of the Jacobian.

    The Jacobian is that of the whole batch: it is summed over accumulation parts, and averaged over
    processes. It takes as much memory as the backbone's gradient, for each task.

    Args:
        name: of the strategy.
        aggregator: class in ``torchjd.aggregation``.
        accelerator: of the run.
        network: not the wrapped one.
        tasks: number of classes by task name.
        arguments: of the aggregator.
    """

    def __init__(
        self,
        name: str,
        aggregator: str,
        accelerator: Accelerator,
        network: Network,
        tasks: Mapping[str, int],
        **arguments: Any,
    ) -> None:
        super().__init__(name, accelerator, network, tasks)
        self.aggregator = _torchjd("aggregation", name, aggregator)(**arguments)
        # PCGrad takes the tasks in a random order, which is to be the same on all processes.
        self.aggregator.gramian_weighting.register_forward_hook(lambda _m, _i, w: broadcast(w))
        self.autojac = _torchjd("autojac", name)
        self.shared = [p for p in network.backbone.parameters() if p.requires_grad]
        shared = set(self.shared)
        self.own = [p for p in network.parameters() if p.requires_grad and p not in shared]

    def backward(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Accumulate the Jacobian; with the last part, make it a gradient."""
        del model  # DDP would average gradients; here it is the Jacobian
        with _repeatable_backward():
            self._accumulate(images, labels)
        if self.accelerator.sync_gradients:
            self._aggregate()

    def _accumulate(self, images: Tensor, labels: Tensor) -> None:
        with self.accelerator.autocast():
            features = self.network.features(images)
            logits = self.network.classify(features, labels)
        losses, _ = self._losses({task: z.float() for task, z in logits.items()}, labels)
        self.autojac.mtl_backward(
            list(losses / self.parts),
            features=features,
            shared_params=self.shared,
            retain_graph=True,  # tasks share the head's normalisation, and a learned classifier
            parallel_chunk_size=1,  # a row at a time needs no vmap, which not all layers have
        )

    def _aggregate(self) -> None:
        for parameter in self.own:
            parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        for parameter in self.shared:
            parameter.jac = self.accelerator.reduce(parameter.jac, "mean")
        rows = torch.stack([p.jac.flatten(1).any(1) for p in self.shared]).any(0)
        if rows.any():  # MGDA stops where a row is 0, and FairGrad wants to divide by it
            for parameter in self.shared:
                parameter.jac = parameter.jac[rows]
        self.autojac.jac_to_grad(self.shared, self.aggregator)
        for parameter in self.shared:  # fused AdamW pairs entries as they lie in memory
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)


@contextmanager
def _repeatable_backward() -> Iterator[None]:
    """What is compiled in here may be differentiated more than once, as for each task's row.

    By default a compiled backward pass overwrites what the forward pass saved for it. The caches of
    compiled code on disk do not tell one kind from the other, and would hand out the overwriting
    one, whose second row is wrong without a word: a tag of our own keeps them apart.
    """
    kept = {"donated_buffer": False}
    with functorch_config.patch(kept), torch.compiler.config.patch(cache_key_tag=f"{kept}"):
        yield


def _torchjd(package: str, strategy: str, name: str | None = None) -> Any:
    """A package of TorchJD, or something in it."""
    try:
        module = import_module(f"torchjd.{package}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"weighting={strategy} is computed by TorchJD, which is not installed: "
            'pip install "etf_heads[recipes]"'
        ) from error
    return module if name is None else getattr(module, name)


WEIGHTINGS: dict[str, Callable[[Accelerator, Network, Mapping[str, int]], EqualWeighting]] = {
    "equal": EqualWeighting,
    "mgda": partial(AggregatedWeighting, "mgda", "MGDA"),
    "uncertainty": UncertaintyWeighting,
    "pcgrad": partial(AggregatedWeighting, "pcgrad", "PCGrad"),
    "dwa": DWAWeighting,
    "famo": FAMOWeighting,
    "fairgrad": partial(AggregatedWeighting, "fairgrad", "FairGrad", alpha=2.0),
}
"""Strategies by name. MGDA: Sener and Koltun, NeurIPS 2018; PCGrad: Yu et al., NeurIPS 2020;
FairGrad: Ban and Ji, ICML 2024, with its alpha of 2."""
