"""Class means in the course of a run: fixed vectors are assigned by them, learned ones aligned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etf_heads.heads import LinearHead, align_, assign_classes
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
            assign_classes(network.head, class_means(network, data, unit), block=BLOCK)
        self.last = step


@torch.no_grad()
def align(network: Network, data: ImageSet, share: float) -> None:
    """Turn the class vectors of a learned head towards the class means of its features, in place.

    Args:
        network: other heads than nn.Linear stay as they are.
        data: training images.
        share: of the angle, see :func:`etf_heads.heads.align_`.
    """
    if not share or type(network.head) is not LinearHead:  # of unit rows: a subclass
        return
    share_buffers(network)
    means = class_means(network, data, network.head.prepare)
    linears = cast("Iterable[nn.Linear]", network.head.linears().values())
    for rows, linear in zip(network.head.tasks.slices, linears, strict=True):
        network.head.weight[rows] = align_(linear, means[rows], share).weight


@torch.no_grad()
def class_means(network: Network, data: ImageSet, prepare: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean features of each class, of all tasks side by side; 0 without images: (sum K_t, d)."""
    network.eval()
    head, device = network.head, data.images.device
    sums = torch.zeros(head.out_features, head.in_features, device=device)
    counts = torch.zeros(head.out_features, device=device)
    for images, labels in zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True):
        features = prepare(network.features(images)).float()
        for rows, column in zip(head.tasks.slices, labels.unbind(1), strict=True):
            labelled = column != NO_LABEL
            classes = column[labelled] + rows.start
            sums.index_add_(0, classes, features[labelled])
            counts += torch.bincount(classes, minlength=len(counts))
    network.train()
    return sums / counts.clamp(min=1)[:, None]


def unit(features: Tensor) -> Tensor:
    """Features of length 1."""
    return F.normalize(features.float(), dim=1)
