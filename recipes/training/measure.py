"""Measurements between epochs: accuracy, loss and collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from etf_heads.collapse import MultiSourceCollapse, MultiTaskCollapse
from recipes.data.images import NO_LABEL, ImageData, ImageSet, has_own_samples
from recipes.storage import json_values
from recipes.training.history import Scores
from recipes.training.loss import summed_cross_entropies
from recipes.training.network import Network

BATCH = 1000
"""Images at a time; without gradients there is room for many."""

FeatureBatches = list[tuple[Tensor, Tensor]]
"""Features (B, d) and labels (B, T), batch by batch."""


class Measured(NamedTuple):
    """The measurements of an :class:`~recipes.training.history.Epoch`."""

    train: Scores
    test: Scores
    collapse: dict[str, float | None]


@torch.inference_mode()
def measure(accelerator: Accelerator, network: Network, data: ImageData) -> Measured:
    """Accuracy and loss on both splits, collapse on the training images, in evaluation mode.

    Every process takes part and gets the same numbers, over each image exactly once.

    Args:
        accelerator: of the run.
        network: not the wrapped one.
        data: what to measure on.
    """
    network.eval()
    # What is compiled for training would be compiled again for each size of batch here.
    with torch.compiler.set_stance("force_eager"):
        train, features = _measure_split(accelerator, network, data.train, list(data.tasks))
        test, _ = _measure_split(accelerator, network, data.test, list(data.tasks))
    own_samples = len(data.tasks) == 1 or has_own_samples(data.train.labels)
    collapse = collapse_measures(
        data.tasks, network.head.weight, network.head.bias, features, own_samples=own_samples
    )
    network.train()
    return Measured(train, test, json_values(collapse))


def _measure_split(
    accelerator: Accelerator, network: Network, data: ImageSet, tasks: list[str]
) -> tuple[Scores, FeatureBatches]:
    # Every n-th image to each of n processes: no image twice, none left out, and no padding.
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    totals = torch.zeros(4, len(tasks), dtype=torch.float64, device=accelerator.device)
    batches: FeatureBatches = []
    for images, labels in zip(
        data.images[mine].split(BATCH), data.labels[mine].split(BATCH), strict=True
    ):
        with accelerator.autocast():
            features, logits = network.features_and_logits(images)
        logits = {task: z.float() for task, z in logits.items()}
        hits = torch.stack([z.argmax(1) for z in logits.values()], dim=1) == labels
        labelled = (labels != NO_LABEL).sum(0)
        every = torch.full_like(labelled, len(labels))
        losses = summed_cross_entropies(logits, labels)
        totals += torch.stack([every, labelled, losses, hits.sum(0)])
        batches.append((features.float(), labels))
    every, labelled, losses, hits = accelerator.reduce(totals)
    accuracies = (hits / labelled).tolist()
    loss = float((losses / labelled).sum())
    return Scores(int(every[0]), loss, dict(zip(tasks, accuracies, strict=True))), batches


def collapse_measures(
    tasks: Mapping[str, int],
    weight: Tensor,
    bias: Tensor | None,
    batches: FeatureBatches,
    *,
    own_samples: bool = False,
) -> dict[str, float]:
    """The measures of features that were gathered before, over all processes.

    S_NC1 to S_NC5 of several tasks on the same images; M_NC1 to M_NC4 of tasks with samples of
    their own, and of a single task, of which they are NC1 to NC4 with centred class vectors.
    """
    kind: Any = MultiSourceCollapse if own_samples else MultiTaskCollapse
    statistics = kind(weight.shape[1], tasks).to(weight.device)
    for batch in batches:
        statistics.update(*(_by_task(tasks, *batch) if own_samples else batch))
    values = dict(statistics.compute(weight))
    decisions = statistics.decisions(weight, bias)
    for batch in batches:
        decisions.update(*(_by_task(tasks, *batch) if own_samples else batch))
    return values | dict(decisions.compute())


def _by_task(
    tasks: Mapping[str, int], features: Tensor, labels: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same images for every task, which takes those that have a label of it."""
    return dict.fromkeys(tasks, features), dict(zip(tasks, labels.unbind(1), strict=True))
