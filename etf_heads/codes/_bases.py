"""Orthonormal bases and their negatives as class vectors: products are fast transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from typing_extensions import Self

from etf_heads._precision import at_least_float32
from etf_heads._tasks import Tasks, TaskSpec
from etf_heads.codes._base import Code
from etf_heads.codes._logsumexp import bases_logsumexp
from etf_heads.codes._tiles import tiles
from etf_heads.codes._topk import Search
from etf_heads.geometry import WalshHadamard, hadamard_rows


class BasesCode(Code):
    r"""Class vectors :math:`\pm` the vectors of orthonormal bases of :math:`\mathbb R^n`.

    Basis 0 is the identity; basis b > 0 has the rows of :math:`H\,\mathrm{diag}(q_b)`, with the
    orthogonal Hadamard matrix H and a sign vector :math:`q_b`. A *line* is a vector of a basis up
    to its sign: there are n a basis, counted through all bases. A task of :math:`K_t` classes
    takes the next :math:`\lceil K_t/2 \rceil` lines, its classes 2i and 2i + 1 the two ends of
    the i-th, so that classes of two tasks never oppose each other.

    The scores of one basis are one fast transform of the sign-flipped coordinates, and nothing
    but the signs is kept, K/2 bytes; they are rebuilt from their formula, and not in
    ``state_dict``.

    Subclasses say how many bases there are and give their signs.

    Args:
        tasks: K for one task, class counts by name or in order for several.
        columns: n; None for what suits the feature space (:meth:`fitting`), the fewest possible
            until then.
        device: of the signs.

    Attributes:
        signs: :math:`q_1, q_2, \dots`, int8 of shape (bases - 1, n).
        quadratic: whether :math:`q_b = (-1)^Q` with quadratic forms Q over GF(2).
    """

    streams = True
    quadratic = False
    signs: Tensor

    def __init__(
        self,
        tasks: TaskSpec | Tasks,
        columns: int | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        tasks = Tasks.parse(tasks)
        super().__init__(tasks, self._narrowest(tasks) if columns is None else columns)
        self._any_columns = columns is None
        if self.lines > self.room(self.columns):
            raise ValueError(self._too_many(self.columns))
        like = torch.empty(0, device=device)
        self.register_buffer("signs", self._make(like), persistent=False)

    @property
    def lines(self) -> int:
        """Number of lines that the classes of all tasks take."""
        return self.count_lines(self.tasks)

    @staticmethod
    def count_lines(tasks: Tasks) -> int:
        """The same of any tasks."""
        return sum(-(-k // 2) for k in tasks.sizes)

    @property
    def bases(self) -> int:
        """Number of bases that these lines are in."""
        return -(-self.lines // self.columns)

    @property
    def coherence(self) -> float:
        """Largest cosine of two class vectors, from the formula."""
        raise NotImplementedError

    @classmethod
    def room(cls, columns: int) -> int:
        """Number of lines there are in n columns; 0 if there is no such code."""
        raise NotImplementedError

    def sign_vectors(self, indices: Tensor) -> Tensor:
        """Signs of the bases after the identity: (...) -> int8 (..., n) on the CPU."""
        raise NotImplementedError

    def fitting(self, in_features: int, columns: int | None = None) -> Code:
        """The code in a feature space: in the most columns that there is a code for.

        Raises:
            ValueError: if the classes are more than it has vectors.
        """
        if not self._any_columns:
            return super().fitting(in_features, columns)
        widths = range(in_features, 0, -1) if columns is None else [columns]
        width = next((n for n in widths if self.room(n)), None)
        if width is None or self.room(width) < self.lines:
            raise ValueError(self._too_many(width, in_features))
        return type(self)(self.tasks, width, device=self.signs.device)

    def expand(self, coordinates: Tensor) -> Tensor:
        """Class scores: (..., n) -> (..., sum K_t)."""
        scores = coordinates
        if self.bases > 1:
            flipped = coordinates.unsqueeze(-2) * self.signs.to(coordinates.dtype)
            transform = WalshHadamard(self.columns, flipped.dtype, flipped.device)
            others = transform(flipped).flatten(-2)
            scores = torch.cat([coordinates, others], dim=-1)
        scores = scores[..., : self.lines]
        ends = torch.stack([scores, -scores], dim=-1).flatten(-2)
        if ends.shape[-1] == self.rows:
            return ends
        # Of a task with an odd number of classes, one end of its last line is no class.
        parts, start = [], 0
        for classes in self.tasks.sizes:
            parts.append(ends[..., start : start + classes])
            start += classes + classes % 2
        return torch.cat(parts, dim=-1)

    def vectors(self, indices: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows of C, each in O(n): (...) -> (..., n)."""
        return self.line_vectors(*self.ends(indices), dtype=dtype)

    def ends(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The line and the sign, +1 or -1, of classes of all tasks side by side: (...) each."""
        sizes = self.tasks.sizes
        if len(sizes) == 1:
            return indices // 2, 1 - 2 * (indices % 2)
        size = torch.tensor(sizes, device=indices.device)
        task = torch.bucketize(indices, size.cumsum(0), right=True)
        own = indices - (size.cumsum(0) - size)[task]
        half = (size + 1) // 2
        return (half.cumsum(0) - half)[task] + own // 2, 1 - 2 * (own % 2)

    def line_vectors(
        self, lines: Tensor, ends: Tensor, *, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Vectors of lines and signs: (...) each -> (..., n)."""
        basis, entry = (lines // self.columns).unsqueeze(-1), lines % self.columns
        places = torch.arange(self.columns, device=lines.device)
        vectors = (places == entry.unsqueeze(-1)).to(dtype)
        if self.bases > 1:
            signs = self.signs[(basis.squeeze(-1) - 1).clamp(min=0)]
            turned = hadamard_rows(entry, self.columns, dtype=at_least_float32(dtype)) * signs
            vectors = torch.where(basis == 0, vectors, turned.to(dtype))
        return vectors * ends.unsqueeze(-1)

    def logsumexp(
        self, coordinates: Tensor, task: int = 0, *, among: Tensor | None = None
    ) -> Tensor:
        r"""Log of the sum of exponentials of a task's scores, without the scores.

        Basis by basis, with the gradient made in the same pass: O(samples n) memory for any K.

        Args:
            coordinates: (samples, n).
            task: its position.
            among: (K_t,) boolean, which of its classes count; all when None.

        Returns:
            (samples,), of float32 at least. It differentiates once.
        """
        first, classes = self.first_line(task), self.tasks.sizes[task]
        return bases_logsumexp(coordinates, self.signs, first, classes, _by_line(among))

    def topk(
        self, coordinates: Tensor, k: int, task: int = 0, *, among: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best scores of a task and their classes, exactly, basis by basis."""
        first, classes = self.first_line(task), self.tasks.sizes[task]
        search = Search(self.signs, first, classes, _by_line(among), self.quadratic)
        return search.topk(coordinates, k)

    def row_sum(self, task: int = 0, *, among: Tensor | None = None) -> Tensor:
        """Sum of the class vectors of a task, (n,) in float64: the ends of a line cancel."""
        first, rows = self.first_line(task), self.tasks.slices[task]
        if among is None:
            if (rows.stop - rows.start) % 2 == 0:
                return torch.zeros(self.columns, dtype=torch.float64, device=self.signs.device)
            last = torch.arange(rows.stop - 1, rows.stop, device=self.signs.device)
            return self.vectors(last)[0]
        ends = _by_line(among).double()
        counts = (ends[:, 0] - ends[:, 1]).unsqueeze(1)
        total = counts.new_zeros(self.columns, 1)
        for tile in tiles(torch.zeros_like(total), self.signs, slice(first, first + len(counts))):
            total = total + tile.lift(counts[tile.start - first : tile.lines.stop - first])
        return total.squeeze(1)

    def first_line(self, task: int) -> int:
        """The line where a task begins."""
        return sum(-(-k // 2) for k in self.tasks.sizes[:task])

    def reset_parameters(self) -> None:
        """Rebuild the signs from their formula."""
        self.signs = self._make(self.signs)

    def _make(self, like: Tensor) -> Tensor:
        if like.is_meta:
            shape = (self.bases - 1, self.columns)
            return torch.empty(shape, dtype=torch.int8, device="meta")
        indices = torch.arange(self.bases - 1, device="cpu")
        # In blocks: the formulas take eight bytes where a sign is one.
        blocks = [
            self.sign_vectors(block) for block in indices.split(max(1, 2**22 // self.columns))
        ]
        empty = torch.empty(0, self.columns, dtype=torch.int8, device="cpu")
        return torch.cat([empty, *blocks]).to(like.device)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        before = self.signs
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.signs.is_meta != before.is_meta:
            self.reset_parameters()
        return self

    @classmethod
    def _narrowest(cls, tasks: Tasks) -> int:
        lines = cls.count_lines(tasks)
        return next(n for n in (2**i for i in range(1, 31)) if cls.room(n) >= lines)

    def _too_many(self, columns: int | None, in_features: int | None = None) -> str:
        where = f"columns={columns}" if in_features is None else f"in_features={in_features}"
        room = self.room(columns) if columns else 0
        why = f"of {self.lines:,} lines needed there are {room:,}" if room else "there is none"
        return (
            f"{where} is too small for {type(self).__name__} of {list(self.tasks.sizes)} classes "
            f"({why}): {self._narrowest(self.tasks)} needed{self._way_out}"
        )

    _way_out = ""


@overload
def _by_line(among: None) -> None: ...
@overload
def _by_line(among: Tensor) -> Tensor: ...
def _by_line(among: Tensor | None) -> Tensor | None:
    """Classes as the two ends of lines, (lines, 2)."""
    if among is None:
        return None
    if len(among) % 2:
        among = torch.cat([among, among.new_zeros(1)])
    return among.unflatten(0, (-1, 2))
