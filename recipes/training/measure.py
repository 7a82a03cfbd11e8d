"""Measurements between epochs: accuracy, loss and collapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from etf_heads.collapse import MultiLabelCollapse, MultiSourceCollapse, MultiTaskCollapse
from recipes.data.images import NO_LABEL, ImageData, ImageSet, has_own_samples
from recipes.storage import json_values
from recipes.training.history import Epoch, Scores
from recipes.training.loss import summed_cross_entropies, summed_pick_all_labels
from recipes.training.network import Network

BATCH = 1000
"""Images at a time; without gradients there is room for many."""

FeatureBatches = list[tuple[Tensor, Tensor]]
"""Features (B, d) and labels (B, T), or label sets (B, K), batch by batch."""


@torch.inference_mode()
def measure(
    accelerator: Accelerator,
    network: Network,
    data: ImageData,
    epoch: int = 0,
    train_seconds: float = 0.0,
) -> Epoch:
    """Accuracy and loss on both splits, collapse on the training images, in evaluation mode.

    Every process takes part and gets the same numbers, over each image exactly once.

    Args:
        accelerator: of the run.
        network: not the wrapped one.
        data: what to measure on.
        epoch: of the record.
        train_seconds: of the record.
    """
    network.eval()
    # What is compiled for training would be compiled again for each size of batch here.
    with torch.compiler.set_stance("force_eager"):
        train, features = _measure_split(accelerator, network, data, data.train)
        test, _ = _measure_split(accelerator, network, data, data.test)
    if data.label_sets:
        collapse = label_set_measures(network.head.weight, features)
    else:
        own_samples = len(data.tasks) == 1 or has_own_samples(data.train.labels)
        collapse = collapse_measures(
            data.tasks, network.head.weight, network.head.bias, features, own_samples=own_samples
        )
    network.train()
    return Epoch(epoch, train_seconds, train, test, json_values(collapse))


def _measure_split(
    accelerator: Accelerator, network: Network, data: ImageData, split: ImageSet
) -> tuple[Scores, FeatureBatches]:
    score = _score_sets if data.label_sets else _score_labels
    # Every n-th image to each of n processes: no image twice, none left out, and no padding.
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    totals = torch.zeros(4, len(data.tasks), dtype=torch.float64, device=accelerator.device)
    batches: FeatureBatches = []
    for images, labels in zip(
        split.images[mine].split(BATCH), split.labels[mine].split(BATCH), strict=True
    ):
        with accelerator.autocast():
            features, logits = network.features_and_logits(images)
        logits = {task: z.float() for task, z in logits.items()}
        labelled, losses, hits = score(logits, labels)
        every = torch.full_like(labelled, len(labels))
        totals += torch.stack([every, labelled, losses, hits])
        batches.append((features.float(), labels))
    every, labelled, losses, hits = accelerator.reduce(totals)
    accuracies = (hits / labelled).tolist()
    loss = float((losses / labelled).sum())
    return Scores(int(every[0]), loss, dict(zip(data.tasks, accuracies, strict=True))), batches


def _score_labels(logits: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each task (T,): how many labels there are, the sum of losses, and of right decisions."""
    hits = torch.stack([z.argmax(1) for z in logits.values()], dim=1) == labels
    return (labels != NO_LABEL).sum(0), summed_cross_entropies(logits, labels), hits.sum(0)


def _score_sets(logits: Mapping[str, Tensor], sets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same (1,) of label sets."""
    (own,) = logits.values()
    hits = exact_sets(own, sets).sum(0, keepdim=True)
    return sets.any(1).sum(0, keepdim=True), summed_pick_all_labels(own, sets)[None], hits


def exact_sets(logits: Tensor, sets: Tensor) -> Tensor:
    """Whether the labels of the largest logits (B, K), as many as a set has, are the set: (B,)."""
    places = logits.argsort(1, descending=True).argsort(1)
    return ((places < sets.sum(1, keepdim=True)) == sets.bool()).all(1)


def label_set_measures(weight: Tensor, batches: FeatureBatches) -> dict[str, float]:
    """The measures of :class:`~etf_heads.collapse.MultiLabelCollapse` of all processes together."""
    statistics = MultiLabelCollapse(weight.shape[1], len(weight)).to(weight.device)
    for batch in batches:
        statistics.update(*batch)
    return statistics.compute(weight)


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
