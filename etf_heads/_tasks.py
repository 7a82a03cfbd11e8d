"""The tasks of a network: their names, if any, and the number of classes of each."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

V = TypeVar("V")

TaskWeights = Mapping[str, float] | Sequence[float]
"""The weight of each task's loss, by task name or in order."""

TaskSpec = int | Mapping[str, int] | Sequence[int]
"""The number of classes of one task, or those of several by task name or in order."""


@dataclass(frozen=True)
class Tasks:
    """Class counts of one or more classification tasks that share their features.

    A head returns its logits in the form of its tasks: a dict when they have names, a tuple when
    they were listed, and the tensor itself for a single task given by its number of classes.

    Attributes:
        sizes: number of classes K_t of each task, each at least 2.
        names: one name a task, or None when they have none.
        single: whether there is one task, given by its number of classes alone.

    Example:
        >>> tasks = Tasks.parse({"left": 10, "right": 7})
        >>> tasks.total, tasks.rank
        (17, 15)
        >>> tasks.pack(["a", "b"])
        {'left': 'a', 'right': 'b'}
        >>> Tasks.parse([10, 7]).pack(["a", "b"]), Tasks.parse(10).pack(["a"])
        (('a', 'b'), 'a')
    """

    sizes: tuple[int, ...]
    names: tuple[str, ...] | None = None
    single: bool = False

    def __post_init__(self) -> None:
        """A single task is one, without a name."""
        if self.single and (len(self.sizes) != 1 or self.names is not None):
            raise ValueError(f"single=True is for one task without a name, got {self}")

    @classmethod
    def parse(cls, tasks: TaskSpec | Tasks, argument: str = "tasks") -> Tasks:
        """The tasks that a user describes.

        Args:
            tasks: K for a single task; class counts by task name, or in order, for several; or
                tasks parsed before.
            argument: the name of the user's argument, for error messages.

        Raises:
            ValueError: if there is no task, or one has fewer than two classes.
        """
        if isinstance(tasks, Tasks):
            return tasks
        if isinstance(tasks, SupportsIndex):
            return cls((class_count(tasks, argument),), single=True)
        names: tuple[str, ...] | None = None
        sizes: Iterable[Any]
        if isinstance(tasks, Mapping):
            names, sizes = tuple(tasks), tuple(tasks.values())
            wrong = [name for name in names if not isinstance(name, str)]
            if wrong:
                raise ValueError(f"{argument}: task names must be strings, got {wrong[0]!r}")
        elif isinstance(tasks, Sequence) and not isinstance(tasks, str):
            sizes = tuple(tasks)
        else:
            raise ValueError(
                f"{argument} must map task names to class counts, list class counts, or be the "
                "number of classes of one task, such as {'shape': 10, 'colour': 7}, [10, 7] or 10; "
                f"got {tasks!r}"
            )
        counts = []
        for position, size in enumerate(sizes):
            where = f"{argument}[{names[position] if names else position!r}]"
            counts.append(class_count(size, where))
        if not counts:
            raise ValueError(f"{argument} is empty: at least one task is needed")
        return cls(tuple(counts), names)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def total(self) -> int:
        """Number of class vectors of all tasks together, sum K_t."""
        return sum(self.sizes)

    @property
    def rank(self) -> int:
        """Dimensions that orthogonal simplex ETFs of these tasks span, sum K_t - T."""
        return self.total - len(self.sizes)

    @property
    def one_size(self) -> bool:
        """Whether all tasks have the same number of classes."""
        return len(set(self.sizes)) == 1

    @property
    def labels(self) -> tuple[str, ...]:
        """The names, or "0", "1", ... for tasks that have none."""
        return self.names or tuple(str(t) for t in range(len(self.sizes)))

    @property
    def slices(self) -> tuple[slice, ...]:
        """The rows of each task among all class vectors."""
        ends = accumulate(self.sizes)
        return tuple(slice(e - k, e) for e, k in zip(ends, self.sizes, strict=True))

    def index(self, task: str | int) -> int:
        """Position of a task given by name or by position."""
        if isinstance(task, str):
            if self.names is None or task not in self.names:
                raise ValueError(f"no task {task!r}: the tasks are {list(self.labels)}")
            return self.names.index(task)
        if not -len(self) <= task < len(self):
            raise ValueError(f"no task {task}: there are {len(self)}, counted from 0")
        return task % len(self)

    def pack(self, values: Iterable[V]) -> dict[str, V] | tuple[V, ...] | V:
        """One value a task: as a dict when they have names, else as a tuple; a single one bare."""
        if self.single:
            (value,) = values
            return value
        if self.names is None:
            return tuple(values)
        return dict(zip(self.names, values, strict=True))

    def split(
        self, logits: Tensor, dim: int = -1
    ) -> dict[str, Tensor] | tuple[Tensor, ...] | Tensor:
        """Logits (or anything else) of all tasks side by side, task by task as in :meth:`pack`."""
        if self.single:  # the tensor itself, which no view of it could replace everywhere
            return logits
        parts = logits.split(self.sizes, dim=dim)
        return self.pack([parts[t] for t in range(len(self))])  # symbolic traces cannot iterate

    def unpack(self, values: Mapping[str, V] | Sequence[V], argument: str) -> tuple[V, ...]:
        """One value for every task, in order, from values by task name or in order."""
        if isinstance(values, Mapping):
            if set(values) != set(self.labels):
                raise ValueError(
                    f"{argument} has the tasks {sorted(values)}, expected {sorted(self.labels)}"
                )
            return tuple(values[name] for name in self.labels)
        if len(values) != len(self):
            raise ValueError(f"{argument} has {len(values)} entries for {len(self)} tasks")
        return tuple(values)

    def weights(self, given: TaskWeights | None) -> tuple[float, ...]:
        """Task weights, checked: one positive number a task, 1 each when None."""
        if given is None:
            return (1.0,) * len(self)
        found = tuple(float(weight) for weight in self.unpack(given, "task_weights"))
        for name, weight in zip(self.labels, found, strict=True):
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(
                    f"task_weights[{name}] must be a positive finite number, got {weight!r}"
                )
        return found


def class_count(value: Any, argument: str) -> int:
    """An integer number of classes, at least 2."""
    count = positive_int(value, argument)
    if count < 2:
        raise ValueError(f"{argument}={count}: a task needs at least 2 classes")
    return count


def positive_int(value: Any, argument: str) -> int:
    """An integer of at least 1, given as any integer type but bool."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{argument} must be a positive integer, got {value!r}")
    return number
