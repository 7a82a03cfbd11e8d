"""Small language models, which differ in the head over their vocabulary: runs of claims."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import tqdm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, AdamW
from torch.optim.lr_scheduler import LambdaLR

from etf_heads import PrototypeHead, SphericalCodeHead
from etf_heads.heads import LinearHead, assign_classes
from etf_heads.losses import (
    NONL,
    NTCE,
    CompoundCrossEntropy,
    LogitAdjustedCrossEntropy,
    logit_prior,
)
from etf_heads.surgery import decay_groups
from recipes.adaptation.settings import Seeded
from recipes.claims.source_code import Corpus, source_code
from recipes.training.assignment import BLOCK, unit
from recipes.training.heads import is_observing
from recipes.training.history import Epoch, Scores
from recipes.training.one_process import begin, finish
from recipes.training.optimizer import warm_up_then_cosine
from recipes.training.processes import process_state
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig
from recipes.training.unit_rows import with_unit_rows

SHARED = ("seed", "jobs", "epochs", "batch_size", "lr", "weight_decay", "resume")
"""Settings of a run that mean the same here."""

EMBEDDING, HIDDEN = 128, 192
SCALE = 16.0
"""Where learned inverse temperatures start."""

TEMPERATURE = 0.1
"""Of the losses that contrast with the batch; not tuned."""

SCORED = 1_024
"""Windows of each part that scores are of, at even distances."""

AVERAGED, FITTED = 1_000, 128
"""Training windows of the class means of an assignment, and of the fit of :func:`calibrated`."""


def _cosines(features: int, embedding: nn.Embedding) -> nn.Module:
    head = LinearHead(features, embedding.num_embeddings, bias=False, feature_norm="unit")
    return with_unit_rows(head, SCALE, learn_scale=True)


def _tied(features: int, embedding: nn.Embedding) -> nn.Module:
    if features != embedding.embedding_dim:
        raise ValueError(
            f"features={features}: a head that shares the embedding has {embedding.embedding_dim}"
        )
    head = LinearHead(features, embedding.num_embeddings)
    head.weight = cast("nn.Parameter", embedding.weight)
    return head


HEADS: dict[str, Callable[[int, nn.Embedding], nn.Module]] = {
    "learned": lambda d, e: LinearHead(d, e.num_embeddings),
    "tied": _tied,
    "cosines": _cosines,
    "spherical": lambda d, e: SphericalCodeHead(d, e.num_embeddings, scale=SCALE, learn_scale=True),
    "prototypes": lambda d, e: PrototypeHead(d, e.num_embeddings),
}
"""Heads by name, of the size of the features and the embedding of the words."""

CROSS_ENTROPY = "cross-entropy"
LOSSES: dict[str, Callable[[Tensor], nn.Module]] = {
    CROSS_ENTROPY: lambda _: CompoundCrossEntropy(),
    "logit-adjusted": LogitAdjustedCrossEntropy,
    "nonl": lambda _: NONL(TEMPERATURE),
    "ntce": lambda _: NTCE(TEMPERATURE),
}
"""Losses by name, of the frequencies of words (K,). The last two contrast with the batch."""


@dataclass(frozen=True, kw_only=True)
class LanguageRun(Seeded):
    """A language model with one head.

    Attributes:
        head: its name in ``HEADS``.
        features: d, the size of the features.
        loss: its name in ``LOSSES``.
        assign: shares of the steps after which classes are given the vectors of a code that are
            nearest to their mean features.
        vocabulary: K, its number of words.
        windows: of an epoch, drawn from those of the training files; by default all.
        epochs: of the training.
        batch_size: windows of a step.
        lr: highest learning rate.
        weight_decay: on matrices.
        corpus: facts of the text, which the run depends on.
    """

    head: str
    features: int = EMBEDDING
    loss: str = CROSS_ENTROPY
    assign: tuple[float, ...] = ()
    vocabulary: int = 4_096
    windows: int | None = None
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    corpus: dict[str, Any]

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head={self.head!r}: choose from {', '.join(HEADS)}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r}: choose from {', '.join(LOSSES)}")
        if self.assign and not self.head.startswith("spherical"):
            raise ValueError(f"assign={self.assign}: head={self.head!r} has no code; leave it out")
        most = self.corpus["windows"] // self.batch_size
        if not 1 <= self.steps_per_epoch <= most:
            raise ValueError(
                f"windows={self.windows}: from one batch, {self.batch_size}, to the "
                f"{self.corpus['windows']} of the training files are possible"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Of the optimiser."""
        windows = self.corpus["windows"] if self.windows is None else self.windows
        return windows // self.batch_size


class LanguageModel(nn.Module):
    """Words to features of the next word, and a head."""

    head: Any  # fixed and learned heads have no class in common

    def __init__(self, run: LanguageRun) -> None:
        super().__init__()
        self.embedding = nn.Embedding(run.vocabulary, EMBEDDING)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING**-0.5)
        self.recurrent = nn.GRU(EMBEDDING, HIDDEN, batch_first=True)
        self.projection = nn.Linear(HIDDEN, run.features)
        self.head = HEADS[run.head](run.features, self.embedding)

    def features(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (B, LENGTH + 1) to features (B * LENGTH, d), and the words to predict."""
        inputs = math.sqrt(EMBEDDING) * self.embedding(windows[:, :-1])
        features: Tensor = self.projection(self.recurrent(inputs)[0])
        return features.flatten(0, 1), windows[:, 1:].flatten()


def learn(
    config: RunConfig, *, vocabulary: int = 4_096, folder: Path | None = None, **own: Any
) -> RunResult:
    """Train a language model on one process.

    Args:
        config: of which ``SHARED`` counts, and the directory.
        vocabulary: as in :class:`LanguageRun`.
        folder: of the files, see :func:`recipes.claims.source_code.source_code`.
        own: other fields of :class:`LanguageRun`.

    Returns:
        The result, with one record, after training: loss in nats a word and accuracy of training
        and test windows, and in ``collapse`` those of the validation windows, ``loss`` and
        ``accuracy``; ``cpu_seconds``, which other work on the machine does not change as it does
        those of the clock; and ``head_bytes``, see :func:`head_bytes`. The one on disk if the run
        is finished already.

    Raises:
        FloatingPointError: if the loss is no longer finite.
        ValueError: if there are several processes, the settings or files do not fit, or the run
            on disk has other ones.
    """
    device = process_state().device
    corpus = source_code(vocabulary, folder).to(device)
    run = LanguageRun(
        **{name: getattr(config, name) for name in SHARED},
        output=config.run_dir,
        vocabulary=vocabulary,
        corpus=corpus.facts | {"windows": len(corpus.train)},
        **own,
    )
    finished = begin(run, "a language model")
    if finished is not None:
        return finished
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        model = LanguageModel(run).to(device)
        start, used = time.perf_counter(), time.process_time()
        _train(model, run, corpus)
        seconds, used = time.perf_counter() - start, time.process_time() - used
    given = () if run.loss == CROSS_ENTROPY else (calibrated(model, corpus),)
    parts = (corpus.train, corpus.validation, corpus.test)
    train, validation, test = (scores(model, part, *given) for part in parts)
    numbers: dict[str, float | None] = {
        "loss": validation.loss,
        "accuracy": validation.mean_accuracy,
        "cpu_seconds": used,
        "head_bytes": float(head_bytes(model)),
    }
    end = Epoch(run.epochs, seconds, train, test, numbers)
    return finish(run, model, [end], {"word": vocabulary}, AdamW)


def _train(model: LanguageModel, run: LanguageRun, corpus: Corpus) -> None:
    criterion = LOSSES[run.loss](corpus.counts)
    steps = run.epochs * run.steps_per_epoch
    optimizer = AdamW(decay_groups(model, run.weight_decay, multiplier=1), run.lr, fused=True)
    schedule = LambdaLR(optimizer, warm_up_then_cosine(steps))
    assigning = {round(share * steps) for share in run.assign}
    observing = is_observing(model.head)
    title = f"{run.head}, {run.loss}, lr {run.lr:g}, seed {run.seed}"
    batches = tqdm(_batches(run, corpus.train), total=steps, desc=title, mininterval=0.5)
    for step, windows in enumerate(batches):
        if step in assigning:
            assign_classes(model.head, class_means(model, corpus.train), block=BLOCK)
        features, words = model.features(windows)
        if observing:
            model.head.observe(features, words)
        loss = criterion(features, model.head, words)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss is {loss.item()} in step {step}, at the learning rate {run.lr:g}: "
                "start again in another --output with a lower one"
            )


def _batches(run: LanguageRun, windows: Tensor) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(run.seed)
    for _ in range(run.epochs):
        order = torch.randperm(len(windows), generator=generator).to(windows.device)
        yield from windows[order[: run.steps_per_epoch * run.batch_size]].split(run.batch_size)


@torch.no_grad()
def class_means(model: LanguageModel, windows: Tensor) -> Tensor:
    """Mean unit features of the words before which they stand, in some windows: (K, d)."""
    size = model.head.out_features, model.head.in_features
    sums = torch.zeros(size, device=windows.device)
    for batch in _evenly(windows, AVERAGED).split(32):
        features, words = model.features(batch)
        sums.index_add_(0, words, unit(features))
    return sums  # of which assign_classes takes the directions


Calibration = Callable[[Tensor], Tensor]
"""Of logits (N, K)."""


def calibrated(model: LanguageModel, corpus: Corpus) -> Calibration:
    """Logits times a number, plus another times the logarithms of the frequencies of words.

    The two numbers are the best ones for the cross-entropy of a few training windows.

    A loss that contrasts with the batch determines neither the temperature of the head nor how
    much more frequent some words are than others.
    """
    prior = logit_prior(corpus.counts)
    with torch.no_grad():
        features, words = model.features(_evenly(corpus.train, FITTED))
        logits = model.head(features)
    numbers = torch.ones(2, device=prior.device, requires_grad=True)
    optimizer = LBFGS([numbers], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(numbers[0] * logits + numbers[1] * prior, words)
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    factor, share = numbers.tolist()
    return lambda logits: factor * logits + share * prior


@torch.no_grad()
def scores(
    model: LanguageModel, windows: Tensor, calibration: Calibration = lambda logits: logits
) -> Scores:
    """Cross-entropy in nats a word, and the share of words that are the most probable ones."""
    loss = hits = total = 0.0
    for batch in _evenly(windows, SCORED).split(32):
        features, words = model.features(batch)
        logits = calibration(model.head(features))
        loss += F.cross_entropy(logits, words, reduction="sum").item()
        hits += (logits.argmax(1) == words).sum().item()
        total += len(words)
    return Scores(int(total), loss / total, {"word": hits / total})


def head_bytes(model: LanguageModel) -> int:
    """Bytes of a head in training, beyond the embedding that it may share.

    Those of its parameters four times (with gradients and AdamW's two moments), and of its
    buffers.
    """
    own = [p for p in model.head.parameters() if p is not model.embedding.weight]
    return 4 * sum(p.nbytes for p in own) + sum(b.nbytes for b in model.head.buffers())


def _evenly(windows: Tensor, count: int) -> Tensor:
    """So many windows, at even distances; all if there are no more."""
    return windows[:: max(1, len(windows) // count)][:count]
