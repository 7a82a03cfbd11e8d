"""The table of losses that every law is checked on, with the heads that they are checked with.

A new loss is one file in ``etf_heads/losses`` and one row of LOSSES: how to make it, and what it
is in NumPy, a task and a sample at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice, product, repeat
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from torch import nn

from etf_heads._tasks import Tasks
from etf_heads.codes import GramCode, MultiCentreCode, SimplexCode
from etf_heads.losses import (
    NONL,
    NTCE,
    CentreCosine,
    CompoundCrossEntropy,
    CompoundFocal,
    CompoundSquaredError,
    DotRegression,
    NormalizedCrossEntropy,
)
from tests.cases import CODES, HeadCase, widths

Oracle = Callable[..., np.ndarray]
"""Prepared features (n, d) with labels (n,), class vectors (K, d), biases (K,) -> losses (n,)."""


@dataclass(frozen=True)
class LossCase:
    """A loss, and what it is.

    Attributes:
        kind: the class.
        options: of its constructor.
        oracle: the same losses in NumPy, of one task's labelled samples.
        in_float32: whether it computes in float32 at least, whatever it is given.
        of_head: makes the oracle for a head, where its class vectors do not say it all.
    """

    kind: type[nn.Module]
    options: dict[str, Any]
    oracle: Oracle = field(repr=False)
    in_float32: bool = False
    of_head: Callable[[Any], Oracle] | None = field(default=None, repr=False)

    def make(self, **options: Any) -> nn.Module:
        return self.kind(**(self.options | options))

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.kind.__name__}({options})"


def picked(matrix: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return matrix[np.arange(len(labels)), labels]


def cross_entropy(h, y, W, b, smoothing=0.0):
    logp = log_softmax(h @ W.T + b, axis=1)
    return -(1 - smoothing) * picked(logp, y) - smoothing * logp.mean(1)


def focal(h, y, W, b, gamma):
    p = np.exp(picked(log_softmax(h @ W.T + b, axis=1), y))
    return -((1 - p) ** gamma) * np.log(p)


def squared_error(h, y, W, b, target):
    K = len(W)
    return ((h @ W.T + b - target * (np.eye(K)[y] - 1 / K)) ** 2).sum(1) / 2


def unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def normalized_cross_entropy(h, y, W, b, temperature):
    return cross_entropy(unit(h), y, unit(W) / temperature, 0 * b)


def ntce(h, y, W, _, temperature):
    u, w = unit(h), unit(W)[y]
    scores = w @ u.T / temperature
    return logsumexp(scores, axis=1) - (w * u).sum(1) / temperature


def nonl(h, y, W, _, temperature):
    u, w = unit(h), unit(W)[y]
    losses = np.zeros(len(y))
    for i in range(len(y)):
        others = [np.exp(w[i] @ u[j] / temperature) for j in range(len(y)) if y[j] != y[i]]
        if others:
            losses[i] = np.log(sum(others)) - w[i] @ u[i] / temperature
    return losses


def dot_regression(h, y, W, _):
    return ((unit(h) * unit(W)[y]).sum(1) - 1) ** 2 / 2


def centre_cosine(head):
    """With all centres of the class; of heads of one centre a class, dot regression."""
    if not isinstance(getattr(head, "code", None), MultiCentreCode):
        return dot_regression
    basis = head.orientation.matrix().detach().numpy()
    centres = head.code.centre_vectors().numpy() @ basis.T
    parts = np.split(centres, np.cumsum(head.code.centres)[:-1])

    def oracle(h, y, *_):
        return np.array(
            [((parts[k] @ u - 1) ** 2).mean() / 2 for u, k in zip(unit(h), y, strict=True)]
        )

    return oracle


def _at(oracle: Oracle, **options: float) -> Oracle:
    return lambda *arguments: oracle(*arguments, **options)


LOSSES = [
    LossCase(CompoundCrossEntropy, {}, cross_entropy),
    LossCase(CompoundCrossEntropy, {"label_smoothing": 0.1}, _at(cross_entropy, smoothing=0.1)),
    *(LossCase(CompoundFocal, {"gamma": g}, _at(focal, gamma=g)) for g in (0.5, 2.0)),
    LossCase(CompoundSquaredError, {"target": 3.0}, _at(squared_error, target=3.0)),
    *(
        LossCase(kind, {"temperature": t}, _at(oracle, temperature=t), in_float32=True)
        for t in (0.1, 1.0)
        for kind, oracle in [
            (NormalizedCrossEntropy, normalized_cross_entropy),
            (NTCE, ntce),
            (NONL, nonl),
        ]
    ),
    LossCase(DotRegression, {}, dot_regression, in_float32=True),
    LossCase(CentreCosine, {}, dot_regression, in_float32=True, of_head=centre_cosine),
    LossCase(
        NTCE, {"temperature": 0.5, "block_size": 2}, _at(ntce, temperature=0.5), in_float32=True
    ),
    LossCase(
        NONL, {"temperature": 0.5, "block_size": 3}, _at(nonl, temperature=0.5), in_float32=True
    ),
]


class Learned(HeadCase):
    """Learned class vectors, in the forms that users have them."""

    def make(self, **overrides: Any) -> Any:
        dtype = overrides.get("dtype", torch.float64)
        torch.manual_seed(0)
        layers = [
            nn.Linear(self.in_features, k, bias=bool(self.options.get("bias")), dtype=dtype)
            for k in self.sizes.sizes
        ]
        if isinstance(self.tasks, int):
            return layers[0]
        if isinstance(self.tasks, dict):
            return nn.ModuleDict(dict(zip(self.tasks, layers, strict=True)))
        return layers

    def __str__(self) -> str:
        return f"learned-{self.in_features}-{list(self.sizes.sizes)}"


_TASKS = {"left": 10, "right": 10}
_COUNTS = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.1
HEADS = [
    HeadCase(9, 10, "canonical"),
    HeadCase(24, 5, "hadamard", {"scale": 3.0}),
    HeadCase(12, 3, "tiled", {"feature_norm": "layer", "bias": True}),
    HeadCase(12, 3, "random", {"feature_norm": "batch"}),
    HeadCase(40, 5, "learned", {"learn_scale": True}),
    HeadCase(40, 5, "nearest"),
    HeadCase(64, 30, "tiled"),  # more classes than samples
    HeadCase(18, _TASKS, "random"),
    HeadCase(31, [2, 3, 5, 7], "tiled", {"bias": True}),
    HeadCase(7, [5, 3, 5], "tiled", {"cross_task": "independent"}),
    HeadCase(20, [3, 4, 2], "hadamard", {"label_counts": _COUNTS, "unit_norm": False}),
    HeadCase(16, 287, "tiled", {"spherical": True, "learn_scale": True}),  # no logits
    HeadCase(20, {"left": 40, "right": 31}, "hadamard", {"spherical": True, "scale": 2.0}),
    *(
        HeadCase(widths(make())[1], name)
        for name, make in CODES.items()
        if not isinstance(make(), SimplexCode | GramCode)  # which the named heads above have
    ),
    Learned(12, 5, options={"bias": True}),
    Learned(12, 30),
    Learned(12, _TASKS, options={"bias": True}),
    Learned(12, [2, 3, 9]),
]

KINDS = [HEADS[i] for i in (1, 2, 8, 9, 10, 11, 12, -4, -1)]
"""A head of each kind: one task, normalised with biases, several tasks, independent, of lengths of
their own, without logits for one task and for several, learned in one layer and in several."""


def covering(each: int) -> Iterator[tuple[LossCase, HeadCase]]:
    """Pairs for laws that do not depend on the pair: each loss and kind of head, each head.

    Args:
        each: how many losses each other head meets, in turn.
    """
    yield from product(LOSSES, KINDS)
    losses = cycle(LOSSES)
    for case in HEADS:
        if case not in KINDS:
            yield from zip(islice(losses, each), repeat(case))


def dense(head: Any) -> tuple[Tasks, np.ndarray, np.ndarray]:
    """Tasks, class vectors (sum K_t, d) and biases (sum K_t,) of any head, in NumPy."""
    if isinstance(head, nn.Linear):
        head = [head]
    if isinstance(head, list | nn.ModuleDict):
        layers = list(head.values()) if isinstance(head, nn.ModuleDict) else head
        sizes = [layer.out_features for layer in layers]
        names = head.keys() if isinstance(head, nn.ModuleDict) else None
        tasks = Tasks.parse(dict(zip(names, sizes, strict=True)) if names else sizes)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat(
            [
                weight.new_zeros(k) if m.bias is None else m.bias
                for m, k in zip(layers, sizes, strict=True)
            ]
        )
    else:
        tasks, weight = head.tasks, head.weight
        bias = weight.new_zeros(tasks.total) if head.bias is None else head.bias
    return tasks, weight.detach().double().numpy(), bias.detach().double().numpy()


def parameters(head: Any) -> list[nn.Parameter]:
    if isinstance(head, list):
        head = nn.ModuleList(head)
    return list(head.parameters())


def prepared(head: Any, h: torch.Tensor) -> np.ndarray:
    """Features (..., d) as the class vectors meet them: (N, d)."""
    h = head.prepare(h) if hasattr(head, "prepare") else h
    return h.detach().double().flatten(0, -2).numpy()


def expected(case: LossCase, head: Any, h: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Losses (N, T) by NumPy, of labels (N, T); zero where there is none."""
    tasks, weight, bias = dense(head)
    features, y = prepared(head, h), labels.numpy()
    losses = np.zeros(y.shape)
    oracle = case.oracle if case.of_head is None else case.of_head(head)
    for t, rows in enumerate(tasks.slices):
        own = y[:, t] != -100
        if own.any():
            losses[own, t] = oracle(features[own], y[own, t], weight[rows], bias[rows])
    return losses


def random_labels(tasks: Tasks, *shape: int, missing: float = 0.0, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randint(k, shape, generator=generator) for k in tasks.sizes], -1)
    gone = torch.rand(labels.shape, generator=generator) < missing
    return labels.masked_fill(gone, -100)
