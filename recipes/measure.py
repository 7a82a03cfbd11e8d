"""What is measured between epochs: accuracy, loss, and how far the network has collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from etf_heads.collapse import MultiTaskCollapse
from recipes.data import ImageData, ImageSet
from recipes.network import Network
from recipes.storage import json_values

BATCH = 1000
"""Images at a time; without gradients there is room for many."""

FeatureBatches = list[tuple[Tensor, Tensor]]
"""Features (B, d) and labels (B, T), batch by batch."""


def multitask_loss(logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """The sum over tasks of the mean cross-entropy; labels (B, T) in the order of the tasks."""
    return sum(
        (F.cross_entropy(z, y) for z, y in zip(logits.values(), labels.unbind(1), strict=True)),
        start=labels.new_zeros((), dtype=torch.float32),
    )


@torch.inference_mode()
def measure(accelerator: Accelerator, network: Network, data: ImageData) -> dict[str, Any]:
    """Accuracy and loss on both splits, collapse on the training images, in evaluation mode.

    Every process takes part and gets the same numbers, over each image exactly once.

    Args:
        accelerator: of the run.
        network: not the wrapped one.
        data: what to measure on.

    Returns:
        JSON values: ``train`` and ``test`` (samples, loss, accuracy by task), and ``collapse``.
        What is not defined is None, such as the angles of class vectors that are still zero.
    """
    network.eval()
    train, features = _measure_split(accelerator, network, data.train, list(data.tasks))
    test, _ = _measure_split(accelerator, network, data.test, list(data.tasks))
    collapse = collapse_measures(data.tasks, network.head.weight, network.head.bias, features)
    network.train()
    return json_values({"train": train, "test": test, "collapse": collapse})


def _measure_split(
    accelerator: Accelerator, network: Network, data: ImageSet, tasks: list[str]
) -> tuple[dict[str, Any], FeatureBatches]:
    # Every n-th image to each of n processes: no image twice, none left out, and no padding.
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    totals = torch.zeros(2 + len(tasks), dtype=torch.float64, device=accelerator.device)
    batches: FeatureBatches = []
    for images, labels in zip(
        data.images[mine].split(BATCH), data.labels[mine].split(BATCH), strict=True
    ):
        with accelerator.autocast():
            features, logits = network.features_and_logits(images)
        logits = {task: z.float() for task, z in logits.items()}
        hits = torch.stack([z.argmax(1) for z in logits.values()], dim=1) == labels
        totals[0] += len(labels)
        totals[1] += multitask_loss(logits, labels) * len(labels)
        totals[2:] += hits.sum(0)
        batches.append((features.float(), labels))
    samples, loss, *hits = accelerator.reduce(totals).tolist()
    scores = {
        "samples": int(samples),
        "loss": loss / samples,
        "accuracy": {task: hit / samples for task, hit in zip(tasks, hits, strict=True)},
    }
    return scores, batches


def collapse_measures(
    tasks: Mapping[str, int], weight: Tensor, bias: Tensor | None, batches: FeatureBatches
) -> dict[str, float]:
    """The measures S_NC1 to S_NC5 of features that were gathered before, over all processes."""
    statistics = MultiTaskCollapse(weight.shape[1], tasks).to(weight.device)
    for features, labels in batches:
        statistics.update(features, labels)
    values = dict(statistics.compute(weight))
    decisions = statistics.decisions(weight, bias)
    for features, labels in batches:
        decisions.update(features, labels)
    return values | dict(decisions.compute())
