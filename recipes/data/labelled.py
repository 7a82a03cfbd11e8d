"""Sets of single pictures, each with the labels of one task or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from recipes.data.images import NO_LABEL, ImageData, ImageSet
from recipes.data.options import DataOptions
from recipes.data.pictures import Pictures
from recipes.data.sampling import check_complete, choose, fewer_classes


def labelled(
    train: Pictures,
    test: Pictures,
    tasks: Mapping[str, int],
    options: DataOptions,
    *,
    flip: bool,
    labels_of: Callable[[Tensor], Tensor] | None = None,
) -> ImageData:
    """Train and test images, chosen by their labels before one of them is decoded.

    Training images are shifted by up to an eighth of their side.

    Args:
        train: pictures with labels (N, T), ``NO_LABEL`` for none; or with classes (N,).
        test: the same, held out.
        tasks: number of classes by task name.
        options: which images to take.
        flip: see :class:`ImageData`.
        labels_of: labels (N, T) of classes (N,), where the pictures have those.
    """
    if labels_of is not None:
        train, test = (part.labelled(labels_of(part.labels)) for part in (train, test))
    tasks = fewer_classes(tasks, options)
    train, test = (_without_left_out(part, tasks) for part in (train, test))
    learned = choose(train.labels, tasks, options, options.train_images)
    held_out = choose(test.labels, tasks, DataOptions(), options.test_images)
    check_complete(tasks, train.labels[learned], test.labels[held_out])
    images = train.fetch(learned)
    return ImageData(
        tasks=tasks,
        train=ImageSet(images, train.labels[learned]),
        test=ImageSet(test.fetch(held_out), test.labels[held_out]),
        shift=min(images.shape[2:]) // 8,
        flip=flip,
    )


def _without_left_out(part: Pictures, tasks: Mapping[str, int]) -> Pictures:
    """Pictures without labels beyond the classes of their tasks."""
    kept = (part.labels < torch.tensor(list(tasks.values()))).all(1).nonzero().squeeze(1)
    return Pictures(part.labels[kept], lambda chosen: part.fetch(kept[chosen]))


def one_task(labels: Tensor) -> Tensor:
    """Classes (N,) as the labels (N, 1) of one task."""
    return labels[:, None]


def crossed(labels: Tensor, second: int) -> Tensor:
    """Classes (N,) as labels (N, 2) of two tasks: quotient and remainder by ``second``."""
    return torch.stack([labels // second, labels % second], dim=1)


def split(labels: Tensor, task_of: Tensor, label_of: Tensor) -> Tensor:
    """Classes (N,) as labels (N, T) of tasks with samples of their own.

    Args:
        labels: classes.
        task_of: task of each class.
        label_of: label of each class in its task.
    """
    columns = labels.new_full((len(labels), int(task_of.max()) + 1), NO_LABEL)
    columns[torch.arange(len(labels)), task_of[labels]] = label_of[labels]
    return columns
