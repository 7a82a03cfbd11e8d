"""Pretraining once, adapting from what it left: the runs of claims about transfer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from accelerate.utils import tqdm
from filelock import FileLock
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from etf_heads.collapse import ClassStatistics, LayerwiseCollapse, SingleTaskCollapse
from etf_heads.losses import CompoundCrossEntropy
from etf_heads.surgery import tune_layer
from recipes.adaptation.images import Transfer, load_transfer
from recipes.adaptation.settings import ALL, HEAD, Adaptation, Pretraining, Schedule
from recipes.data.images import ImageData, ImageSet
from recipes.storage import json_values
from recipes.training.augmentation import Augmentation, Standardise
from recipes.training.backbones import backbone
from recipes.training.heads import HEADS, HeadRequest, is_observing
from recipes.training.history import Epoch, Scores
from recipes.training.loss import mean_cross_entropies
from recipes.training.network import Network
from recipes.training.one_process import begin, finish
from recipes.training.processes import process_state
from recipes.training.result import RunResult, write_weights

BATCH = 1_000
"""Images at a time where nothing is trained."""

KIND = "a run of adaptation"


def pretrain(run: Pretraining) -> RunResult:
    """Train a network on the first task, and keep it after each checkpoint.

    A run that was killed starts again; one that is finished is read.

    Returns:
        The result, whose history has a record for each checkpoint. Its ``collapse`` has the
        variance of the features, and of ``run.layers`` by name: mean squared distance to the class
        mean over that of the class means to their average.

    Raises:
        FloatingPointError: if the loss is no longer finite.
        OSError: if something cannot be written.
        ValueError: if the settings do not fit together, or the run that is there.
    """
    run.run_dir.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(run.run_dir.with_suffix(".lock")):  # adaptations that run at once may share it
        return begin(run, KIND) or _pretrained(run)


def _pretrained(run: Pretraining) -> RunResult:
    images = load_transfer(run.images, run.data_options, run.seed).to(process_state().device)
    network = make_network(run, images)
    history, seconds = [], 0.0
    steps = _epochs(network, images.source, run.schedule, run.seed, f"pretraining, {run.images}")
    start = time.perf_counter()
    for epoch, loss in steps:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {epoch}, at the learning rate {run.schedule.lr:g}: "
                "start again in another --output with a lower one"
            )
        if epoch in run.kept:
            seconds += time.perf_counter() - start
            history.append(_record(network, images.source, epoch, seconds, run.layers))
            write_weights(network, run.run_dir).replace(run.weights(epoch))
            start = time.perf_counter()
    return finish(run, network, history, images.source.tasks, optimizer_of(run.schedule))


def adapt(run: Adaptation) -> RunResult:
    """Tune a pretrained network on the second task, at the best of several learning rates.

    Returns:
        The result, with two records of the new task: before, with the new head as it starts, and
        after. ``collapse`` has ``nc1`` and ``variance`` of the training features as the head meets
        them. The first has also what the pretraining measured at its checkpoint, as
        ``source_loss``, ``source_accuracy`` (of its test images) and ``source_NAME`` of each
        measure. The second has the learning rate ``lr`` and its accuracy on the images held out,
        ``held_out``; ``shifted``, the accuracy on shifted images, if there are any; and
        ``tuned_share``, the share of the backbone's parameters that were trained.

    Raises:
        FloatingPointError: if the loss is not finite at any of the learning rates.
        OSError: if something cannot be written.
        ValueError: if the settings do not fit together, or a run that is there.
    """
    finished = begin(run, KIND)
    if finished is not None:
        return finished
    checkpoint = next(row for row in pretrain(run.source).history if row.epoch == run.start)
    images = load_transfer(run.source.images, run.data_options, run.seed)
    images = images.to(process_state().device)
    first = _record(adapted_network(run, images), images.target, 0)
    first.collapse.update(
        {f"source_{name}": value for name, value in checkpoint.collapse.items()}
        | {
            "source_loss": checkpoint.train.loss,
            "source_accuracy": checkpoint.test.mean_accuracy,
        }
    )
    network, schedule, held_out = _best(run, images)
    last = _record(network, images.target, schedule.epochs)
    last.collapse.update({"lr": schedule.lr, "held_out": held_out, "tuned_share": _share(network)})
    if images.shifted is not None:
        last.collapse["shifted"] = _scores(network, images.shifted)[0].mean_accuracy
    return finish(run, network, [first, last], images.target.tasks, optimizer_of(schedule))


def make_network(run: Pretraining, images: Transfer) -> Network:
    """An untrained network for the first task; the seed determines its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        shape = images.source.train.images.shape[1:]
        body = backbone(run.backbone)((shape[0], shape[1], shape[2]), run.features, run.width)
        tasks = images.source.tasks
        head = HEADS["learned"](HeadRequest(run.features, tasks, images.source.train.labels))
    standardise = Standardise(images.source.train.images)
    loss = CompoundCrossEntropy(reduction="task")
    return Network(standardise, body, head, loss, tasks).to(images.source.train.images.device)


def adapted_network(run: Adaptation, images: Transfer) -> Network:
    """The network of a pretraining's checkpoint with a new head, and what is tuned unfrozen."""
    network = make_network(run.source, images)
    load_model(network, str(run.source.weights(run.start)))
    target = images.target
    network.tasks = tuple(target.tasks)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        request = HeadRequest(
            run.source.features,
            target.tasks,
            target.train.labels,
            scale=run.scale,
            feature_norm=run.feature_norm,
        )
        network.head = HEADS[run.head](request).to(target.train.images.device)
    if run.part == HEAD:
        network.requires_grad_(False)
        network.head.requires_grad_(True)
    elif run.part != ALL:
        tune_layer(network, run.part, skip=run.skip, at="head")
    return network


def _best(run: Adaptation, images: Transfer) -> tuple[Network, Schedule, float]:
    """The network, schedule and held-out accuracy of the best learning rate, the first of several.

    With a single rate nothing is chosen.
    """
    best: tuple[Network, Schedule, float] | None = None
    for lr in run.rates:
        network, schedule = adapted_network(run, images), replace(run.schedule, lr=lr)
        name = f"{run.source.images}, {run.head}, {run.part}, lr {lr:g}, seed {run.seed}"
        losses = [loss for _, loss in _epochs(network, images.target, schedule, run.seed, name)]
        if not all(map(math.isfinite, losses)):
            continue
        accuracy = _scores(network, images.held_out)[0].mean_accuracy
        if best is None or accuracy > best[2]:
            best = network, schedule, accuracy
    if best is None:
        raise FloatingPointError(
            f"the loss is not finite at any of the learning rates {run.rates}: give lower ones"
        )
    return best


def _epochs(
    network: Network, data: ImageData, schedule: Schedule, seed: int, name: str
) -> Iterator[tuple[int, float]]:
    """Train in place; yields the number of each epoch and its last loss, from 1.

    Batches depend on the seed alone, so networks that differ otherwise see the same ones.
    """
    images, device = data.train, data.train.images.device
    generator = torch.Generator().manual_seed(seed << 20)
    augmentation = Augmentation(len(images), data.shift, flip=data.flip, seed=seed, device=device)
    parts = math.ceil(len(images) / schedule.batch_size)
    optimizer = optimizer_of(schedule)([p for p in network.parameters() if p.requires_grad])
    decay = CosineAnnealingLR(optimizer, schedule.epochs * parts)
    for epoch in tqdm(range(1, schedule.epochs + 1), desc=name, mininterval=0.5):
        _training_mode(network)
        augmentation.start_epoch(epoch)
        order = torch.randperm(len(images), generator=generator).to(device)
        for chosen in order.tensor_split(parts):
            batch = images.images[chosen]
            if schedule.augment:
                batch = augmentation(batch, chosen)
            loss = _loss(network, batch, images.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        yield epoch, loss.item()


def optimizer_of(schedule: Schedule) -> Callable[[list[nn.Parameter]], SGD]:
    """The optimiser of a schedule, for parameters."""
    decay = schedule.weight_decay
    return partial(SGD, lr=schedule.lr, momentum=0.9, weight_decay=decay, fused=True)


def _training_mode(network: Network) -> None:
    """Training mode of what is tuned: frozen normalisations keep the statistics that they have."""
    network.train()
    if not any(p.requires_grad for p in network.backbone.parameters()):
        network.backbone.eval()


def _loss(network: Network, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the logits, which heads that observe make of features and labels."""
    features = network.features(images)
    columns = dict(zip(network.tasks, labels.unbind(1), strict=True))
    observing = is_observing(network.head)
    logits = network.head(features, columns) if observing else network.head(features)
    return mean_cross_entropies(logits, labels).sum()


def _record(
    network: Network,
    data: ImageData,
    epoch: int,
    seconds: float = 0.0,
    layers: Sequence[str] = (),
) -> Epoch:
    """Scores of both splits; collapse of the training features, and variance of some layers."""
    network.eval()
    labels = data.train.labels[:, 0]
    kind = partial(SingleTaskCollapse, num_classes=max(data.tasks.values()), covariance="trace")
    measured = LayerwiseCollapse(network, layers, kind) if layers else None
    train, features = _scores(network, data.train, measured)
    statistics = ClassStatistics.from_batch(features, labels)
    collapse: dict[str, float] = {
        "nc1": statistics.variability(),
        "variance": statistics.within_over_between,
    }
    if measured is not None:
        measured.remove()
        collapse |= {name: own["nc1_ratio"] for name, own in measured.compute().items()}
    test, _ = _scores(network, data.test)
    return Epoch(epoch, seconds, train, test, json_values(collapse))


@torch.no_grad()
def _scores(
    network: Network, images: ImageSet, layers: LayerwiseCollapse | None = None
) -> tuple[Scores, Tensor]:
    """Loss and accuracy, and the features (N, d) that the head was given, not yet normalised."""
    network.eval()
    features: list[Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    logits = []
    for batch, labels in zip(images.images.split(BATCH), images.labels.split(BATCH), strict=True):
        (own,) = network(batch).values()
        logits.append(own)
        if layers is not None:
            layers.update(labels[:, 0])
    hook.remove()
    (task,) = network.tasks
    found = {task: torch.cat(logits).double()}
    hits = found[task].argmax(1) == images.labels[:, 0]
    loss = float(mean_cross_entropies(found, images.labels).sum())
    return Scores(len(images), loss, {task: float(hits.double().mean())}), torch.cat(features)


def _share(network: Network) -> float:
    """Share of the backbone's parameters that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in network.backbone.parameters()]
    return sum(size for size, tuned in sizes if tuned) / sum(size for size, _ in sizes)
