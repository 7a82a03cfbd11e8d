"""Assignment of class vectors to classes in the course of a run."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads.heads import assign_classes
from recipes.data.images import NO_LABEL, ImageSet
from recipes.training.heads import SPHERICAL
from recipes.training.network import Network
from recipes.training.processes import share_buffers
from recipes.training.settings import RunConfig

BATCH = 1000
BLOCK = 512
"""Classes to solve for at once: those of a larger code would take minutes."""


class Assignment:
    """Gives classes the vectors nearest to their means, before some steps of a run.

    Args:
        config: says in which epochs; only heads of codes with more vectors than a simplex take it.
        steps_per_epoch: of the run.
    """

    def __init__(self, config: RunConfig, steps_per_epoch: int) -> None:
        epochs = config.assign if config.head in SPHERICAL else ()
        self.steps = {round(epoch * steps_per_epoch) for epoch in epochs}
        self.last = -1

    def before_step(self, step: int, network: Network, data: ImageSet) -> None:
        """Assign, if that is to be done before this step; once, for all parts of its batch."""
        if step in self.steps and step != self.last:
            share_buffers(network)  # or each process would find other means
            assign_classes(network.head, class_means(network, data), block=BLOCK)
        self.last = step


@torch.no_grad()
def class_means(network: Network, data: ImageSet) -> Tensor:
    """Sums of the unit features of each class, of all tasks side by side: (sum K_t, d)."""
    network.eval()
    sums = torch.zeros(network.head.out_features, network.head.in_features)
    sums = sums.to(data.images.device)
    for images, labels in zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True):
        features = F.normalize(network.features(images).float(), dim=1)
        for rows, column in zip(network.head.tasks.slices, labels.unbind(1), strict=True):
            labelled = column != NO_LABEL
            sums.index_add_(0, column[labelled] + rows.start, features[labelled])
    network.train()
    return sums
