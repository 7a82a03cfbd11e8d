"""Feature dissection: what one half of an image leaves in the features of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.claims.claim import BATCH_NORM, Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, Record, extras
from recipes.data.images import ImageData, ImageSet
from recipes.pages.canvas import HeatMap, heat_maps, plain, svg_text
from recipes.pages.page import Figure
from recipes.pages.tables import Line
from recipes.training.network import Network, evaluate
from recipes.training.result import RunResult

Corner = tuple[int, int]
"""The uppermost row and the leftmost column of a picture in its image."""

PICTURES: dict[str, tuple[int, tuple[Corner, Corner]]] = {
    "multi-digits": (8, ((0, 0), (0, 8))),
    "multi-cifar10-10-10": (32, ((0, 0), (32, 32))),
}
"""Side and corners of the two pictures in an image of a data set where they do not overlap, so that
the image of one alone is what the data set would have composed with black in the other's place."""

PARTS = ("left", "right")

HEADS = ("learned-norm", "compound")


@dataclass(frozen=True)
class Dissection:
    r"""Alignment of the features of dissected images.

    Attributes:
        own: for each part the mean cosine between class means and class vectors of its task.
        other: the mean absolute cosine with those of the other task.
        spread: the variance of the part's features within classes over that between them.
        cosines: for each part those between class means and all class vectors, (K, 2K).
        sum: the mean cosine between :math:`\mu_{(i,j)} - \mu_G` and
            :math:`\bar h^L_i + \bar h^R_j`, the sum of both parts' class means.
    """

    own: list[float]
    other: list[float]
    spread: list[float]
    cosines: list[list[list[float]]]
    sum: float


@dataclass(frozen=True)
class Dissections:
    """The dissection before training and after."""

    before: Dissection
    after: Dissection


def dissected(images: Tensor, side: int, corner: Corner) -> Tensor:
    """Images (N, C, H, W) of one of their pictures alone: black everywhere else."""
    row, column = corner
    alone = torch.zeros_like(images)
    place = (..., slice(row, row + side), slice(column, column + side))
    alone[place] = images[place]
    return alone


def examine(network: Network, data: ImageData, result: RunResult) -> Dissections:
    """The measures of :func:`dissection` on the training images, before training and after."""
    side, corners = PICTURES[result.config["data"]]
    images, labels = data.train.images, data.train.labels
    sets = [data.train, *(ImageSet(dissected(images, side, c), labels) for c in corners)]
    found = []
    for of in (untrained(network, data.train), network):
        whole, *parts = (evaluate(of, data)[0] for data in sets)
        found.append(dissection(whole, parts, labels, of.head.weight.detach()))
    return Dissections(*found)


def untrained(network: Network, data: ImageSet) -> Network:
    """The network with weights drawn anew, and running statistics of the images that it is given.

    Parts of images may add up in its features, too, as they do in any linear map; what training
    adds to this is the difference.
    """
    fresh = deepcopy(network).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in fresh.modules():
            if reset := getattr(module, "reset_parameters", None):
                reset()
        order = torch.randperm(len(data))
    with torch.no_grad():
        for chosen in order.split(500):
            fresh.features_and_logits(data.images[chosen])
    return fresh.eval()


def dissection(whole: Tensor, parts: list[Tensor], labels: Tensor, weight: Tensor) -> Dissection:
    """Alignment of features of dissected images with class vectors and features of whole images.

    Class means are those of a part's features over the images with one label of its own task, less
    the mean of these means; class vectors are centred in the same way.

    Args:
        whole: features of the images, shape (N, d).
        parts: features of the left pictures alone and of the right ones, (N, d) each.
        labels: shape (N, 2), K classes each; all K² pairs occur.
        weight: class vectors of both tasks, shape (2K, d).
    """
    classes = len(weight) // 2
    blocks = [_centred(block) for block in weight.double().split(classes)]
    vectors = F.normalize(torch.cat(blocks), dim=1)
    own, other, spread, rounded, centres = [], [], [], [], list[Tensor]()
    for task, features in enumerate(parts):
        means = _means(features, labels[:, task], classes)
        within = (features.double() - means[labels[:, task]]).square().sum(1).mean()
        centres.append(_centred(means))
        cosines = F.normalize(centres[task], dim=1) @ vectors.T  # shape: (K, 2K)
        by_task = cosines.split(classes, dim=1)
        own.append(float(by_task[task].diagonal().mean()))
        other.append(float(by_task[1 - task].abs().mean()))
        spread.append(float(within / centres[task].square().sum(1).mean()))
        rounded.append([[round(c, 4) for c in row] for row in cosines.tolist()])
    pairs = _means(whole, labels[:, 0] * classes + labels[:, 1], classes**2)
    sums = (centres[0][:, None] + centres[1][None]).flatten(0, 1)  # shape: (K², d)
    aligned = float(F.cosine_similarity(_centred(pairs), sums).mean())
    return Dissection(own, other, spread, rounded, aligned)


def _means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean features of each class, shape (classes, d)."""
    members = F.one_hot(labels, classes).double()
    return members.T @ features.double() / members.sum(0)[:, None]


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(0)


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Parts stand in their own task's frame alone, and add up to the whole."""
    for head in HEADS:
        ends = [moments.after for moments in extras(evidence[head], Dissections)]
        yield Criterion(
            f"{head}: cosine of a part's class means with its own task's class vectors",
            _mean_of_parts([end.own for end in ends]),
            "at least",
            0.9,
            "within 26 degrees, both parts together; a random direction has 0 on average",
        )
        yield Criterion(
            f"{head}: mean |cosine| with the other task's class vectors",
            _mean_of_parts([end.other for end in ends]),
            "at most",
            0.1,
            "what random vectors have at d = 60",
        )
        yield Criterion(
            f"{head}: spread of a part's features within classes over that between them",
            _mean_of_parts([end.spread for end in ends]),
            "at most",
            0.1,
            "an order of magnitude: features of one class are close to one another",
        )
        yield Criterion(
            f"{head}: cosine of whole images' mean features with the sums of their parts",
            [end.sum for end in ends],
            "at least",
            0.9,
            "within 26 degrees; of two equally long parts, one alone has 0.71. The "
            "table says what an untrained network has",
        )


def _mean_of_parts(values: Sequence[Sequence[float]]) -> list[float]:
    return [sum(of_parts) / len(PARTS) for of_parts in values]


def lines(evidence: Evidence) -> Iterator[Line]:
    """The measures of each part, means over seeds before training and after."""
    titles = {
        "own": "cosine with own class vectors",
        "other": "|cosine| with the other task's",
        "spread": "spread within over between classes",
    }
    for name, title in titles.items():
        for k, part in enumerate(PARTS):
            cells = (_before_and_after(records, _entry(name, k)) for records in evidence.values())
            yield (f"{title}, {part} picture alone", *cells)
    sums = (_before_and_after(records, attrgetter("sum")) for records in evidence.values())
    yield ("cosine of the whole with the sum of parts", *sums)


def _entry(name: str, place: int) -> Callable[[Dissection], float]:
    return lambda found: float(getattr(found, name)[place])


def _before_and_after(records: Sequence[Record], number: Callable[[Dissection], float]) -> str:
    found = extras(records, Dissections)
    means = (fmean(number(d.before) for d in found), fmean(number(d.after) for d in found))
    return " → ".join(f"{mean:.3f}" for mean in means)


def figures(evidence: Evidence) -> list[Figure]:
    """Class means of both parts against all class vectors, of the first seed."""
    shown = [
        (row, f"{head}: {part} picture alone", records)
        for row, part in enumerate(PARTS)
        for head, records in evidence.items()
    ]
    maps = [
        HeatMap(
            title,
            extras(records, Dissections)[0].after.cosines[row],
            list(records[0].tasks.values()),
        )
        for row, title, records in shown
    ]
    figure, axes = heat_maps(maps, len(evidence), height=4.6)
    for ax, (row, _, records), (*_, sizes) in zip(axes, shown, maps, strict=True):
        ax.set_ylabel(f"its {sizes[row]} class means")
        ax.set_xticks([k * sizes[0] + sizes[0] / 2 - 0.5 for k in range(2)])
        ax.set_xticklabels([f"{plain(task)} class vectors" for task in records[0].tasks])
        ax.tick_params(length=0)
    caption = (
        "Cosines between the centred class means of dissected images and the class vectors of "
        "both tasks, first seed. In a dissected image one of the two pictures stands in its place "
        "and the rest is black, the value of an empty background; the pictures do not overlap, so "
        "nothing of the other one is left. The network never saw such images in training. "
        "Collapse of a part to its own task's frame is a simplex ETF (1 on the diagonal, -1/(K-1) "
        "elsewhere) on its own side, and 0 on the other."
    )
    return [Figure(svg_text(figure), caption)]


VARIANTS = {head: Variant({"head": head}) for head in HEADS}

CLAIM = Claim(
    name="dissection",
    title="Feature dissection: a whole image's features are the sum of its parts'",
    says=(
        "“Neural Collapse in Multi-Task Learning”: where every image carries the labels of two "
        "tasks, its collapsed feature is the normalised sum of two parts, one a task. Cut out of "
        "a two-digit image, the left digit alone gives a feature h^L that collapses to the left "
        "task's frame, the right digit alone an h^R in the right task's; frames are orthogonal, "
        "and the mean feature of whole images with labels (i, j) points to the sum of both. "
        "Tested on all training images, dissected by making everything but one picture black."
    ),
    plans={
        "reduced": Plan("multi-digits", BATCH_NORM, VARIANTS, seeds=(0, 1)),
        "full": Plan("multi-cifar10-10-10", BATCH_NORM, VARIANTS),
    },
    judge=judge,
    measures=("s_nc1_ratio", "s_nc3", "s_nc4"),
    examine=examine,
    lines=lines,
    figures=figures,
)
