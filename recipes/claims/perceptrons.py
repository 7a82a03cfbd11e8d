"""Perceptrons that train in seconds, for claims beyond the loop of ``recipes/training``.

Regressions, decay of some layers alone, penalties, and training until a level of the loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from recipes.data import load_data
from recipes.data.images import ImageSet
from recipes.data.options import DataOptions
from recipes.records import differences
from recipes.training.augmentation import Standardise
from recipes.training.history import Epoch, Scores
from recipes.training.one_process import begin, finish
from recipes.training.processes import process_state
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

SHARED = ("epochs", "batch_size", "lr", "weight_decay", "seed")
"""Settings of a run that mean the same here."""

PATIENCE = 5
"""Training that has not come to its loss after so many times its epochs ends without."""


@dataclass(frozen=True)
class Samples:
    """Inputs (N, d), and labels (N,) or targets (N, n)."""

    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Samples:
        """The same on another device."""
        return Samples(self.inputs.to(device), self.targets.to(device))


class Perceptron(nn.Module):
    """A backbone, inputs to features, and a head."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, ...) to outputs (B, n)."""
        outputs: Tensor = self.head(self.backbone(inputs))
        return outputs


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What one run trains, and what is measured of it.

    Attributes:
        network: as it starts.
        loss: mean loss of outputs and targets.
        train: what is learned from.
        test: what is held out.
        measure: numbers by name, of the network in evaluation mode and the training samples.
        tasks: number of classes by task name; empty for a regression.
        decayed: parameters under weight decay; all matrices where there are none.
        penalty: of a batch of inputs, added to its loss.
    """

    network: Perceptron
    loss: Callable[[Tensor, Tensor], Tensor]
    train: Samples
    test: Samples
    measure: Callable[[Perceptron, Samples], Mapping[str, float]]
    tasks: dict[str, int] = field(default_factory=dict)
    decayed: Sequence[nn.Parameter] = ()
    penalty: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class _Run:
    """The settings of a run, as its directory knows them."""

    run_dir: Path
    resume: bool
    values: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.values

    def differences(self, saved: dict[str, Any]) -> list[str]:
        return differences(self.values, saved)


def learn(
    config: RunConfig,
    *,
    problem: Callable[..., Problem],
    momentum: float = 0.9,
    stop: float | None = None,
    **own: Any,
) -> RunResult:
    """Train by SGD at a constant rate, on one process.

    Args:
        config: of which ``SHARED`` counts, and the directory.
        problem: makes the problem from ``own``; random numbers that it draws are of the run's
            seed.
        momentum: of SGD.
        stop: a training loss; the network is measured after the step that first reaches it, too,
            and trained until then, for at most ``PATIENCE`` times the epochs.
        own: settings of the claim, as JSON values.

    Returns:
        The result; its history has the network before training, after ``config.epochs``, and with
        ``stop`` as it says. The one on disk if the run is finished already.

    Raises:
        FloatingPointError: if the loss is no longer finite.
        ValueError: if there are several processes, or the run on disk has other settings.
    """
    values = {name: getattr(config, name) for name in SHARED} | own
    values |= {"momentum": momentum, "stop": stop}
    run = _Run(config.run_dir, config.resume, values)
    finished = begin(run, "this claim")
    if finished is not None:
        return finished
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        made = problem(**own)
        made.network.to(process_state().device)
        make = partial(_optimizer, decayed=made.decayed, config=config, momentum=momentum)
        history = list(_trained(made, config, make, stop))
    return finish(run, made.network, history, made.tasks, make)


def _trained(
    problem: Problem,
    config: RunConfig,
    make_optimizer: Callable[[list[nn.Parameter]], SGD],
    stop: float | None,
) -> Iterator[Epoch]:
    """Train; yields the records of the history."""
    network, device = problem.network, next(problem.network.parameters()).device
    train, test = problem.train.to(device), problem.test.to(device)
    optimizer = make_optimizer([p for p in network.parameters() if p.requires_grad])
    generator = torch.Generator().manual_seed(config.seed)
    seconds, waiting = 0.0, stop is not None
    batches = math.ceil(len(train.inputs) / config.batch_size)

    def record(epoch: int) -> Epoch:
        network.eval()
        measured = problem.measure(network, train).items()
        return Epoch(
            epoch,
            seconds,
            _scores(problem, train),
            _scores(problem, test),
            {name: None if math.isnan(value) else value for name, value in measured},
        )

    yield record(0)
    for epoch in range(1, (PATIENCE if waiting else 1) * config.epochs + 1):
        start = time.perf_counter()
        order = torch.randperm(len(train.inputs), generator=generator)
        for batch in order.to(device).tensor_split(batches):
            network.train()
            inputs = train.inputs[batch]
            loss = problem.loss(network(inputs), train.targets[batch])
            whole = loss if problem.penalty is None else loss + problem.penalty(inputs)
            optimizer.zero_grad()
            whole.backward()
            optimizer.step()
            if stop is not None and waiting and _scores(problem, train).loss <= stop:
                waiting = False
                yield record(epoch)
        if not math.isfinite(whole.item()):
            raise FloatingPointError(
                f"the loss is {whole.item()} in epoch {epoch}, at the learning rate {config.lr:g}"
            )
        seconds += time.perf_counter() - start
        if epoch == config.epochs:
            yield record(epoch)
        if epoch >= config.epochs and not waiting:
            return


def _optimizer(
    parameters: list[nn.Parameter],
    *,
    decayed: Sequence[nn.Parameter],
    config: RunConfig,
    momentum: float,
) -> SGD:
    """SGD that decays some of the parameters; the matrices if none are given."""
    chosen = {id(p) for p in decayed or [p for p in parameters if p.ndim > 1]}
    groups = [
        {"params": [p for p in parameters if (id(p) in chosen) is decay], "weight_decay": value}
        for decay, value in ((True, config.weight_decay), (False, 0.0))
    ]
    return SGD([group for group in groups if group["params"]], config.lr, momentum=momentum)


@torch.no_grad()
def _scores(problem: Problem, samples: Samples) -> Scores:
    """Loss, and accuracy of a classification."""
    problem.network.eval()
    outputs = problem.network(samples.inputs)
    right = outputs.argmax(1) == samples.targets if problem.tasks else None
    accuracy = {} if right is None else dict.fromkeys(problem.tasks, float(right.double().mean()))
    return Scores(len(outputs), float(problem.loss(outputs, samples.targets)), accuracy)


@cache
def digits() -> tuple[Samples, Samples]:
    """The digits of scikit-learn, 64 standardised pixels each: for training and testing."""
    data = load_data("digits", DataOptions())
    standardise = Standardise(data.train.images)

    def samples(part: ImageSet) -> Samples:
        return Samples(standardise(part.images).flatten(1), part.labels[:, 0])

    return samples(data.train), samples(data.test)


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear maps of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
