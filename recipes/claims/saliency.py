"""Saliency: what correlated tasks look at in an image, and how much of it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.claims.claim import BATCH_NORM, Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, differences, examined, extras
from recipes.data.images import ImageData
from recipes.pages.canvas import new_figure, plain, svg_text
from recipes.pages.page import Figure
from recipes.pages.tables import Line
from recipes.training.engine import train
from recipes.training.network import Network
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

Maps = NDArray[np.float64]
"""Saliency of every pixel, not negative, shape (N, H, W)."""

REDUCED = {
    "backbone": "vgg11",
    "width": 8,
    "features": 64,
    "train_images": 4_000,
    "test_images": 1_000,
    "epochs": 8,
    "batch_size": 125,
    "lr": 1e-2,
    "weight_decay": 1.0,
}
"""Quick runs. Grad-CAM++ asks for a backbone that averages its last maps, as a VGG here does: it
weighs whole maps by mean gradients, which say nothing about the points that a classifier separates.
"""

SHARES = (0.1, 0.5, 0.9)
"""Of training images with equal labels; in a tenth of them they are so by chance."""

HEADS = ("learned-norm", "correlated")

EXAMINED, SHOWN = 200, 3
"""Test images whose maps are compared, and which of them are shown."""

RISE = 0.05

POINTS = 4
"""Maps of fewer points a side say too little about where a task looks."""


def overlap(first: Maps, second: Maps) -> Maps:
    """Histogram intersection of maps: the sum of the smaller of two maps that each sum to 1.

    Args:
        first: shape (N, H, W).
        second: the same.

    Returns:
        Of each pair, shape (N,): 1 for equal maps, 0 for maps that share no pixel, NaN where one
        of them is empty.
    """
    with np.errstate(invalid="ignore"):
        shares = [maps / maps.sum((1, 2), keepdims=True) for maps in (first, second)]
    return np.minimum(*shares).sum((1, 2))


class OneTask(nn.Module):
    """A network's logits of a single task: what Grad-CAM++ asks of a model.

    Args:
        network: gives logits of all.
        task: which.
    """

    def __init__(self, network: Network, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        return self.network(images)[self.task]


def saliency_maps(network: Network, images: Tensor, labels: Tensor) -> list[Maps]:
    """Grad-CAM++ maps of the logit of the right class, for each task.

    Chattopadhay et al., "Grad-CAM++: generalized gradient-based visual explanations for deep
    convolutional networks" (WACV 2018), on the last feature maps of the backbone.

    Args:
        network: in evaluation mode.
        images: shape (N, C, H, W).
        labels: shape (N, T).
    """
    cam = import_grad_cam()
    layer = _last_maps(network, images[:1])
    found = []
    for task, column in zip(network.tasks, labels.T.tolist(), strict=True):
        targets = [cam.utils.model_targets.ClassifierOutputTarget(label) for label in column]
        # Not as a context manager, which would swallow an IndexError.
        explainer = cam.GradCAMPlusPlus(OneTask(network, task), [layer])
        try:
            found.append(explainer(images, targets).astype(np.float64))
        finally:
            explainer.activations_and_grads.release()
    return found


def _last_maps(network: Network, image: Tensor) -> nn.Module:
    """The last module of the backbone whose output shows where in the image something is."""
    found: list[nn.Module] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) >= POINTS:
            found.append(module)

    leaves = [module for module in network.backbone.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    if not found:
        raise ValueError(
            f"the backbone has no feature maps of {POINTS} x {POINTS} points: saliency needs a "
            "convolutional one, or larger images"
        )
    return found[-1]


def import_grad_cam() -> Any:
    """The package, which only this claim needs.

    Raises:
        ImportError: with the command that installs it.
    """
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise ImportError(
            "the claim saliency needs the package grad-cam: pip install 'etf_heads[saliency]', or "
            "pip install grad-cam"
        ) from error
    return pytorch_grad_cam


def train_if_maps_can_be_made(config: RunConfig) -> RunResult:
    """Train; what is missing afterwards is said before."""
    import_grad_cam()
    return train(config)


@dataclass(frozen=True)
class Saliency:
    """Saliency maps of a network on test images."""

    overlap: float  # mean overlap of both tasks' maps
    empty: int  # images with an empty map, left out of it
    images: list[list[list[int]]]  # a few of them to look at, shape (n, H, W)
    labels: list[list[int]]  # theirs, (n, T)
    maps: list[list[list[list[float]]]]  # of each task on these images, (T, n, H, W)


def examine(network: Network, data: ImageData, result: RunResult) -> Saliency:  # noqa: ARG001
    """Overlap of both tasks' maps on test images, and images and maps to look at."""
    chosen = torch.linspace(0, len(data.test) - 1, min(EXAMINED, len(data.test))).long()
    images, labels = data.test.images[chosen], data.test.labels[chosen]
    maps = saliency_maps(network, images, labels)
    found = overlap(*maps)
    shown = torch.linspace(0, len(chosen) - 1, SHOWN + 2).long()[1:-1]
    return Saliency(
        overlap=float(np.nanmean(found)),
        empty=int(np.isnan(found).sum()),
        images=images[shown].cpu().double().mean(1).round().int().tolist(),
        labels=labels[shown].tolist(),
        maps=[of_task[shown.numpy()].round(2).tolist() for of_task in maps],
    )


def _name(head: str, share: float) -> str:
    return f"{head}, {share:g}"


VARIANTS = {
    _name(head, share): Variant({"head": head, "agreement": share}, train_if_maps_can_be_made)
    for share in SHARES
    for head in HEADS
}


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """With either head, tasks look at more of the same image the more their labels agree."""
    for head in HEADS:
        overlaps = [examined(evidence[_name(head, share)], Saliency, "overlap") for share in SHARES]
        yield Criterion(
            f"{head}: overlap at agreement {SHARES[-1]:g} less that at {SHARES[0]:g}",
            differences(overlaps[-1], overlaps[0]),
            "at least",
            RISE,
            "one part in twenty of what a task looks at; the overlap lies between 0 and 1",
        )
        steps = [differences(after, before) for before, after in pairwise(overlaps)]
        yield Criterion(
            f"{head}: smallest step of the overlap from one agreement to the next",
            [min(of_seed) for of_seed in zip(*steps, strict=True)],
            "at least",
            0.0,
            "it rises with correlation, and does not fall anywhere",
        )


def lines(evidence: Evidence) -> Iterator[Line]:
    """Overlaps, and how many maps were empty."""
    overlaps = (fmean(examined(own, Saliency, "overlap")) for own in evidence.values())
    empty = (sum(examined(own, Saliency, "empty")) for own in evidence.values())
    yield ("overlap of the tasks' saliency maps", *(f"{mean:.3f}" for mean in overlaps))
    yield ("images with an empty map, left out", *map(str, empty))


def figures(evidence: Evidence) -> list[Figure]:
    """Maps of both tasks on a few test images."""
    names = [_name(head, share) for head in HEADS for share in (SHARES[0], SHARES[-1])]
    figure, axes = new_figure(SHOWN, 2 * len(names), width=8.2, height=3.6)
    for column, name in enumerate(names):
        (extra, *_), tasks = extras(evidence[name], Saliency), evidence[name][0].tasks
        for task, of in enumerate(tasks):
            title = plain(of.replace("_", " "))
            for row in range(SHOWN):
                ax = axes[row * 2 * len(names) + 2 * column + task]
                ax.imshow(extra.images[row], cmap="gray")
                ax.imshow(extra.maps[task][row], cmap="inferno", vmin=0, vmax=1, alpha=0.6)
                ax.set_axis_off()
            axes[2 * column + task].set_title(f"{name if task == 0 else ''}\n{title}", fontsize=7)
    caption = (
        "Grad-CAM++ maps of the logit of the right class, from dark (0) to bright (1), on the same "
        "test images for all, first seed. The number beside a head is the share of training images "
        "whose two labels were equal; test images have all label pairs equally often. "
        f"The overlap is measured on {EXAMINED} test images: maps divided by their sums, and the "
        "smaller of both summed over pixels: 1 for equal maps, 0 for maps without a common pixel."
    )
    return [Figure(svg_text(figure), caption)]


CLAIM = Claim(
    name="saliency",
    title="Correlated tasks look at the same parts of an image",
    says=(
        "“Neural Collapse in Multi-Task Learning”: as the labels of two tasks become more "
        "correlated, their class vectors align, and the tasks draw on the same features: their "
        "saliency maps overlap more. With heads fixed at the angles that the correlation makes "
        "optimal it is likewise. Tested on two MNIST digits an image, whose labels are equal in a "
        "set share of the training images."
    ),
    plans={
        "reduced": Plan("multi-mnist-10-10", BATCH_NORM | REDUCED, VARIANTS, seeds=(0, 1)),
        "full": Plan("multi-mnist-10-10", BATCH_NORM, VARIANTS),
    },
    judge=judge,
    measures=("s_nc1_ratio", "s_nc3", "s_nc5"),
    examine=examine,
    lines=lines,
    figures=figures,
)
