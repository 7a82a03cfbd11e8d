"""Strategies that make one gradient of the Jacobian, by aggregators of TorchJD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from recipes.training.network import Network
from recipes.training.strategies.equal import Strategy, torchjd


class AggregatedWeighting(Strategy):
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
        self.aggregator = torchjd("aggregation", name, aggregator)(**arguments)
        # PCGrad takes the tasks in a random order, which is to be the same on all processes.
        self.aggregator.gramian_weighting.register_forward_hook(lambda _m, _i, w: broadcast(w))
        self.autojac = torchjd("autojac", name)
        self.shared: list[Any] = [p for p in network.backbone.parameters() if p.requires_grad]
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
            losses = self.network.losses(features, labels)
        losses, _ = self.of_batch(losses, labels)
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
    """Compile so that one graph can be differentiated more than once, as for each task's row.

    By default a compiled backward pass overwrites what the forward pass saved for it. The caches of
    compiled code on disk do not distinguish the two kinds, and would return the overwriting
    one, whose second row is wrong without a word: a tag of our own keeps them apart.
    """
    kept = {"donated_buffer": False}
    functorch: Any = import_module("torch._functorch.config")
    compiler: Any = import_module("torch.compiler.config")
    with functorch.patch(kept), compiler.patch(cache_key_tag=f"{kept}"):
        yield
