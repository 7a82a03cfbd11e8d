"""Any folder of images, with any tasks made of its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.data.images import NO_LABEL, ImageData
from recipes.data.labelled import labelled, split
from recipes.data.options import DataOptions
from recipes.data.pictures import read_folder
from recipes.storage import read_json


def image_folder(options: DataOptions) -> ImageData:
    """Images of ``root/{train,test}/CLASS/FILE``; one task of all classes, or those of a file.

    Raises:
        ValueError: if there are no images, they cannot be read, or the tasks are not made of the
            classes that there are.
    """
    classes, train, test = read_folder(options.root, "RGB", options.image_size)
    names, label_of = {"class": len(classes)}, torch.arange(len(classes))[:, None]
    if options.tasks is not None:
        names, label_of = read_tasks(options.tasks, classes)
    return labelled(
        train,
        test,
        names,
        options,
        flip=True,
        labels_of=lambda labels: label_of[labels],
    )


def read_tasks(path: Path, classes: Sequence[str]) -> tuple[dict[str, int], Tensor]:
    """The tasks that a JSON file makes of classes.

    Args:
        path: the file: task names mapped to lists of classes, each class in exactly one task
            (multi-source, labelled in the order of the list); or to a label, a whole number or a
            word, for every class (labels are numbered in sorted order; null or -100 for none).
        classes: all there are.

    Returns:
        Number of labels by task name, and the labels of each class, (classes, T), ``NO_LABEL`` for
        none.

    Raises:
        ValueError: naming the file, and the task or class that is wrong.
    """
    if not path.is_file():
        raise ValueError(f"tasks={path}: there is no such file")
    tasks = read_json(path)
    kinds = {type(of) for of in tasks.values()} if isinstance(tasks, dict) else set()
    if kinds == {list}:
        sizes, labels = _partition(path, tasks, classes)
    elif kinds == {dict}:
        sizes, labels = _mappings(path, tasks, classes)
    else:
        raise ValueError(
            f"{path} must map every task name to a list of classes, or every one to a label for "
            'each class, such as {"animals": ["cat", "dog"], "plants": ["fern", "oak"]}'
        )
    if few := [name for name, size in sizes.items() if size < 2]:
        raise ValueError(f"{path}: task {few[0]!r} has {sizes[few[0]]} labels, 2 are needed")
    return sizes, labels


def _partition(
    path: Path, tasks: Mapping[str, list[Any]], classes: Sequence[str]
) -> tuple[dict[str, int], Tensor]:
    listed = [str(name) for own in tasks.values() for name in own]
    _same_classes(path, listed, classes)
    number = {name: k for k, name in enumerate(classes)}
    task_of, label_of = (torch.empty(len(classes), dtype=torch.int64) for _ in range(2))
    for t, own in enumerate(tasks.values()):
        members = torch.tensor([number[str(name)] for name in own], dtype=torch.int64)
        task_of[members], label_of[members] = t, torch.arange(len(members))
    sizes = {name: len(own) for name, own in tasks.items()}
    return sizes, split(torch.arange(len(classes)), task_of, label_of)


def _mappings(
    path: Path, tasks: Mapping[str, dict[str, Any]], classes: Sequence[str]
) -> tuple[dict[str, int], Tensor]:
    sizes, columns = {}, []
    for name, mapping in tasks.items():
        _same_classes(path, list(mapping), classes)
        given = [label for label in mapping.values() if label not in (None, NO_LABEL)]
        if {type(label) for label in given} not in ({int}, {str}):
            raise ValueError(f"{path}: labels of task {name!r} must be all integers or all strings")
        labels = sorted(set(given))
        if isinstance(labels[0], int) and labels[0] < 0:
            raise ValueError(
                f"{path}: task {name!r} has the label {labels[0]}, which is no class: labels are "
                f"whole numbers from 0, and a class without one has null or {NO_LABEL}"
            )
        sizes[name] = len(labels)
        number = {label: k for k, label in enumerate(labels)}
        columns.append(torch.tensor([number.get(mapping[k], NO_LABEL) for k in classes]))
    return sizes, torch.stack(columns, dim=1)


def _same_classes(path: Path, given: Sequence[str], classes: Sequence[str]) -> None:
    twice = sorted(name for name, times in Counter(given).items() if times > 1)
    unknown, missing = sorted(set(given) - set(classes)), sorted(set(classes) - set(given))
    for fault, names in (("twice", twice), ("but is no folder", unknown)):
        if names:
            raise ValueError(f"{path} names {names[0]!r} {fault}; classes are {list(classes)}")
    if missing:
        raise ValueError(f"{path} does not name the class {missing[0]!r}: give it a task or label")
