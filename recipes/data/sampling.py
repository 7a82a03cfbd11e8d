"""Sampling of the images of a set: balanced or skewed, and always the same."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recipes.data.images import NO_LABEL, has_own_samples
from recipes.data.options import DataOptions

ROUNDING = 1e-6
"""Shares of images that count as nothing: the arithmetic leaves smaller ones."""


def fewer_classes(tasks: Mapping[str, int], options: DataOptions) -> dict[str, int]:
    """Tasks with the numbers of classes that options ask for.

    Raises:
        ValueError: if these are not one a task, or more than there are.
    """
    asked = options.classes or tuple(tasks.values())
    most = tuple(tasks.values())
    if len(asked) != len(most) or any(k > m for k, m in zip(asked, most, strict=True)):
        raise ValueError(
            f"classes={asked}: one number a task is needed, at most {most} for {list(tasks)}"
        )
    return dict(zip(tasks, asked, strict=True))


def choose(
    labels: Tensor, tasks: Mapping[str, int], options: DataOptions, total: int | None
) -> Tensor:
    """Indices of the images to take, in their order, drawn with a fixed seed in each label tuple.

    Args:
        labels: (N, T), ``NO_LABEL`` for none.
        tasks: number of classes by task name.
        options: how label tuples are to be distributed; as they are, if it does not say.
        total: at most so many images; None for as many as there are.

    Raises:
        ValueError: if the distribution asked for is not one of these tasks, or needs images of
            label tuples that there are none of.
    """
    tuples, group, available = labels.unique(dim=0, return_inverse=True, return_counts=True)
    weights = tuple_weights(tuples, tasks, options)
    if weights is None:
        weights = available
    elif not has_own_samples(labels) and len(tuples) < (all_ := math.prod(tasks.values())):
        raise ValueError(
            f"{_skew(options)} needs images of all {all_} label tuples of the tasks {list(tasks)}, "
            f"there are such of {len(tuples)}: choose fewer tasks, or fewer --classes"
        )
    numbers = allocate(tuples, weights, available, total)
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    order = shuffled[group[shuffled].argsort(stable=True)]
    place = torch.arange(len(labels)) - (available.cumsum(0) - available)[group[order]]
    return order[place < numbers[group[order]]].sort().values


def tuple_weights(tuples: Tensor, tasks: Mapping[str, int], options: DataOptions) -> Tensor | None:
    """Relative frequencies asked for each label tuple (G, T); None if there are none.

    With ``imbalance`` r, class k of K has the weight r^(-k/(K-1)) (the long-tailed CIFAR of Cui et
    al., "Class-balanced loss based on effective number of samples", CVPR 2019), and a tuple the
    product over its tasks. With ``pair_imbalance`` r, the pair (i, j) has r^(-((j-i) mod K)/(K-1)),
    a Latin square. With ``agreement`` p, pairs of equal labels have p/K, others (1-p)/(K(K-1)).
    """
    if options.imbalance > 1:
        last = torch.tensor(list(tasks.values())) - 1
        exponents = (tuples.clamp(min=0).double() / last).sum(1)
        return options.imbalance**-exponents
    if _skew(options) is None:
        return None
    classes = set(tasks.values())
    if len(tasks) != 2 or len(classes) != 1 or has_own_samples(tuples):
        raise ValueError(
            f"{_skew(options)} needs two tasks of equally many classes on the same images; the "
            f"tasks are {dict(tasks)}"
        )
    (k,) = classes
    first, second = tuples.unbind(1)
    if options.agreement is None:
        return options.pair_imbalance ** -(((second - first) % k).double() / (k - 1))
    apart = (1 - options.agreement) / (k * (k - 1))
    return torch.where(first == second, options.agreement / k, apart).double()


def allocate(tuples: Tensor, weights: Tensor, available: Tensor, total: int | None) -> Tensor:
    """Whole numbers of images in proportion to weights, as many as there are, at most a total.

    Largest remainders are rounded up. Among equal ones those with the same sum of labels modulo
    the number of classes go together, so that classes stay as balanced as the tuples are.

    Args:
        tuples: (G, T) distinct label tuples.
        weights: (G,) of them.
        available: (G,) images of each.
        total: at most so many images; None for no limit.
    """
    shares = weights.double() / weights.sum()
    wanted = shares > 0
    most = math.floor(float((available[wanted] / shares[wanted]).min()) + ROUNDING)
    total = most if total is None else min(total, most)
    exact = shares * total
    numbers = (exact + ROUNDING).floor().long()
    remainders = (exact - numbers).div(ROUNDING).round().tolist()
    squares = (tuples.clamp(min=-1).sum(1) % (int(tuples.max()) + 1)).tolist()
    order = sorted(range(len(tuples)), key=lambda g: (-remainders[g], squares[g], g))
    numbers[order[: total - int(numbers.sum())]] += 1
    return numbers


def check_complete(tasks: Mapping[str, int], train: Tensor, test: Tensor) -> None:
    """Refuse a class without training images, and a task without test images.

    Args:
        tasks: number of classes by task name.
        train: training labels (N, T).
        test: test labels.

    Raises:
        ValueError: naming task and class.
    """
    for column, (task, classes) in enumerate(tasks.items()):
        seen = train[:, column].unique().tolist()
        if missing := sorted(set(range(classes)) - set(seen)):
            raise ValueError(
                f"no training image has label {missing[0]} of task {task!r}: take more "
                "--train-images, less --imbalance, or other classes"
            )
        if not (test[:, column] != NO_LABEL).any():
            raise ValueError(f"no test image has a label of task {task!r}: take more --test-images")


def _skew(options: DataOptions) -> str | None:
    names = ("imbalance", "pair_imbalance", "agreement")
    given = [f"{name}={getattr(options, name)}" for name in names if name in options.given()]
    return given[0] if given else None
