"""The interface of a code: the class vectors, in the coordinates of an orientation."""

from __future__ import annotations

import torch
from torch import Tensor

from etf_heads._spec import Specified
from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads._tracing import call_recorded


class Code(Specified):
    r"""A matrix C of shape (rows, columns): class vectors in the coordinates of an orientation.

    Rows belong to the classes of all tasks, side by side. A subclass implements :meth:`expand`
    and, where it has a closed form, :meth:`vectors`; it need not store C. One that comes in
    several widths implements :meth:`fitting`. One that keeps the arguments of its constructor
    under their own names is saved and restored with its head.

    Args:
        tasks: the tasks whose classes the rows are: K for one task, class counts by name or in
            order for several.
        columns: dimensions that the class vectors span, or a few more.

    Attributes:
        tasks: the tasks, as :class:`~etf_heads.Tasks`.
        rows: number of class vectors, :math:`\sum K_t`.
        columns: as given.
        streams: whether :meth:`logsumexp` and :meth:`topk` make no scores on the way, so that
            memory does not depend on the number of classes.

    Example:
        The axes and their negatives, two class vectors a dimension:

        >>> class Axes(Code):
        ...     def __init__(self, tasks):
        ...         tasks = Tasks.parse(tasks)
        ...         super().__init__(tasks, columns=tasks.total // 2)
        ...
        ...     def expand(self, coordinates):
        ...         return torch.cat([coordinates, -coordinates], dim=-1)
        >>> from etf_heads.heads import FixedHead
        >>> head = FixedHead(8, Axes(6))
        >>> head(torch.randn(4, 8)).shape, head.rows(torch.tensor([0, 5])).shape
        (torch.Size([4, 6]), torch.Size([2, 8]))
    """

    streams = False

    def __init__(self, tasks: TaskSpec | Tasks, columns: int) -> None:
        super().__init__()
        self.tasks = Tasks.parse(tasks)
        self.rows = self.tasks.total
        self.columns = positive_int(columns, "columns")

    def fitting(self, in_features: int, columns: int | None = None) -> Code:
        """The code as it stands in a feature space, with as many columns as suit that.

        Args:
            in_features: d, the size of the features.
            columns: what an orientation that is given already asks for.

        Returns:
            This code, or one of the same class vectors in other coordinates.

        Raises:
            ValueError: if the class vectors do not fit into d dimensions, or into the columns.
        """
        if columns not in (None, self.columns):
            raise ValueError(f"the code has {self.columns} columns, the orientation {columns}")
        if self.columns > in_features:
            raise ValueError(
                f"in_features={in_features} is too small for {type(self).__name__} of "
                f"{list(self.tasks.sizes)} classes: {self.columns} needed"
            )
        return self

    def expand(self, coordinates: Tensor) -> Tensor:
        """Products C z: (..., columns) -> (..., rows)."""
        raise NotImplementedError

    def vectors(self, indices: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows of C: indices (...) of classes, of all tasks side by side -> (..., columns).

        Made here from all of C; a code with many rows gives its own formula.
        """
        return self.matrix(dtype=dtype, device=indices.device)[indices]

    def logsumexp(self, coordinates: Tensor, task: int = 0) -> Tensor:
        """Log of the sum of exponentials of a task's scores: (samples, columns) -> (samples,)."""
        return self.expand(coordinates)[:, self.tasks.slices[task]].logsumexp(1)

    def topk(self, coordinates: Tensor, k: int, task: int = 0) -> tuple[Tensor, Tensor]:
        """The best scores of a task and their classes, best first.

        Args:
            coordinates: (samples, columns).
            k: how many.
            task: its position.

        Returns:
            Values and classes, (samples, k) each.
        """
        values, classes = self.expand(coordinates)[:, self.tasks.slices[task]].topk(k)
        return values, classes

    def row_sum(self, task: int = 0) -> Tensor:
        """Sum of the class vectors of a task, (columns,) in float64."""
        return self.matrix()[self.tasks.slices[task]].sum(0)

    @property
    def softmax_scale(self) -> float | None:
        """The number that C is to a softmax over each task's rows, if it is no more than that.

        A softmax does not see what all scores of a task have in common, nor does the gradient of
        a loss on it.
        """
        return None

    def matrix(
        self, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Tensor:
        """C itself, shape (rows, columns), made on request."""
        return self.expand(torch.eye(self.columns, dtype=dtype, device=device)).mT

    def forward(self, coordinates: Tensor) -> Tensor:
        """Same as :meth:`expand`."""
        if (recorded := call_recorded(self, coordinates)) is not None:
            return recorded
        return self.expand(coordinates)

    def extra_repr(self) -> str:
        """Sizes, for ``print(module)``."""
        return f"classes={list(self.tasks.sizes)}, columns={self.columns}"
