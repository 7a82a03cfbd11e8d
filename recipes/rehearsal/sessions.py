"""A run in sessions: new classes in each, trained on beside a buffer of the earlier ones."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import tqdm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from etf_heads.losses import CompoundCrossEntropy
from recipes.data import load_data
from recipes.data.images import ImageData
from recipes.records import from_json, to_json
from recipes.rehearsal.measures import Seen, measure
from recipes.rehearsal.settings import HEADS, SessionsRun
from recipes.storage import writing
from recipes.training.augmentation import Standardise
from recipes.training.history import Epoch
from recipes.training.network import Network
from recipes.training.one_process import begin, finish
from recipes.training.processes import process_state
from recipes.training.result import WEIGHTS, RunResult


def learn(run: SessionsRun) -> RunResult:
    """Train one network through all sessions, or what is left of them.

    After each session weights and measurements are written in one file. A session starts from the
    weights alone, with an optimiser and random numbers of its own, so a run that was killed goes on
    to the same numbers as if it had not been.

    Returns:
        The result, whose history has a record for each session; the one on disk if the run was
        finished already and is resumed.

    Raises:
        FileExistsError: if the output directory is taken and ``run.resume`` is not set.
        FloatingPointError: if the loss is no longer finite.
        OSError: if something cannot be written.
        ValueError: if the settings do not fit together, or the run to resume.
    """
    device = process_state().device
    data = load_data(run.data, run.data_options).to(device)
    (classes,) = data.tasks.values()
    if classes % run.classes:
        raise ValueError(f"classes={run.classes}: {run.data} has {classes}, not a multiple of it")
    finished = begin(run, "a run in sessions")
    if finished is not None:
        return finished
    network = make_network(run, data).to(device)
    history = _load(network, run.run_dir / WEIGHTS)
    sessions = classes // run.classes
    name = f"{run.data}, {run.head}, buffer {run.buffer:.1%}, seed {run.seed}"
    epochs = tqdm(
        total=sessions * run.epochs, initial=len(history) * run.epochs, desc=name, mininterval=0.5
    )
    with epochs as bar:
        for session in range(len(history), sessions):
            start, seconds = time.perf_counter(), history[-1].train_seconds if history else 0.0
            seen = seen_until(run, data, session)
            for loss in train_session(network, run, seen):
                bar.update()
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss} in session {session + 1}, at the learning rate "
                        f"{run.lr:g}: start again in another --output with a lower one"
                    )
            seconds += time.perf_counter() - start
            history.append(measure(network, seen, history, seconds))
            bar.set_postfix(accuracy=f"{history[-1].test.mean_accuracy:.1%}")
            _save(network, history, run.run_dir / WEIGHTS)
    return finish(run, network, history, data.tasks, partial(_optimizer, run=run))


def make_network(run: SessionsRun, data: ImageData) -> Network:
    """An untrained backbone, the same for all heads of a seed, and a head for all classes."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        backbone = nn.Sequential(
            nn.Flatten(),
            nn.Linear(data.train.images[0].numel(), run.hidden),
            nn.ReLU(),
            nn.Linear(run.hidden, run.features),
        )
        head = HEADS[run.head](run.features, data.tasks)
    loss = CompoundCrossEntropy(reduction="task")
    return Network(Standardise(data.train.images), backbone, head, loss, data.tasks)


def seen_until(run: SessionsRun, data: ImageData, session: int) -> Seen:
    """The data of a run up to a session, counted from 0.

    The images that are kept of a class depend on the seed alone, and a small buffer is part of a
    larger one.
    """
    train, test = (
        part.of(part.labels[:, 0] < (session + 1) * run.classes) for part in (data.train, data.test)
    )
    kept = [train.labels.new_zeros(0)]
    for k in range(session * run.classes):
        own = (train.labels[:, 0] == k).nonzero()[:, 0]
        size = max(1, round(run.buffer * len(own))) if run.buffer else 0
        order = torch.randperm(len(own), generator=_generator(run, 1_000 + k))
        kept.append(own[order[:size].to(own.device)])
    return Seen(train, test, torch.cat(kept), run.classes)


def train_session(network: Network, run: SessionsRun, seen: Seen) -> Iterator[float]:
    """Train on the classes of a session and the buffer; yields the last loss of each epoch.

    Each step takes a batch of the session's images and as many of the buffer, drawn with
    replacement. Logits of classes that are yet to come take no part in the cross-entropy.
    """
    network.train()
    first, count, buffer = seen.current.start, seen.count, seen.buffer
    images, labels = network.standardise(seen.train.images), seen.train.labels[:, 0]
    new, generator = (labels >= first).nonzero()[:, 0], _generator(run, first)
    optimizer = _optimizer([p for p in network.parameters() if p.requires_grad], run)
    for _ in range(run.epochs):
        order = new[torch.randperm(len(new), generator=generator).to(new.device)]
        for batch in order.tensor_split(math.ceil(len(new) / run.batch_size)):
            drawn = torch.randint(max(1, len(buffer)), (len(batch),), generator=generator)
            replayed = buffer[drawn.to(buffer.device)] if len(buffer) else buffer
            chosen = torch.cat([batch, replayed])
            (logits,) = network.head(network.backbone(images[chosen])).values()
            loss = F.cross_entropy(logits[:, :count], labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield loss.item()


def _optimizer(parameters: Sequence[nn.Parameter], run: SessionsRun) -> SGD:
    return SGD(parameters, run.lr, momentum=run.momentum, weight_decay=run.weight_decay, fused=True)


def _generator(run: SessionsRun, number: int) -> torch.Generator:
    """Random numbers of a session by its first class, or of a class from 1,000 on."""
    return torch.Generator().manual_seed((run.seed << 20) + number)


def _save(network: Network, history: Sequence[Epoch], path: Path) -> None:
    """Write weights and measurements in one file, put in its place in one move."""
    beside = path.with_name(f".{path.name}.partial")
    text = json.dumps([to_json(row) for row in history], allow_nan=False)
    with writing(path):
        save_file(network.state_dict(), beside, metadata={"history": text})
        beside.replace(path)


def _load(network: Network, path: Path) -> list[Epoch]:
    """Put the weights of the last session back; no history if there is no whole file."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in network.state_dict()}
            history = [from_json(Epoch, row) for row in json.loads(file.metadata()["history"])]
        network.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        warnings.warn(f"{path} is damaged ({error}): the run starts again", stacklevel=2)
        return []
    return history
