"""The base class of collapse measures: class statistics as torchmetrics states."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from etf_heads._precision import at_least_float32
from etf_heads._tasks import positive_int
from etf_heads.collapse._plot import PlottedMetric
from etf_heads.collapse._reservoir import Sample
from etf_heads.collapse._running import RunningSums
from etf_heads.collapse._statistics import ClassStatistics

Covariance = Literal["full", "trace"]
"""Keep the (d, d) within-class scatter, or its trace only."""

Precision = Literal["features", "float64"]
"""Products in the features' own precision, at least float32, or in float64; sums are float64."""

NOT_FINITE = (
    "features have NaN or infinite entries (or squares beyond float64): this batch was not taken in"
)

_ROWS = ("keys", "counts", "shifts", "totals", "squares")
_SAMPLE = ("priorities", "features", "labels")
_WAITING = ("waiting_features", "waiting_keys")
_CHUNK_ENTRIES = 2**20  # float32 entries that wait: 4 MiB, which caches and malloc like
_FLOAT32_RANGE = (1e-10, 1e15)  # of the largest entry, where squares neither over- nor underflow
_NEW_ROWS = 32  # fewer are not merged: their groups' samples add rows until they are


class CollapseMetric(PlottedMetric):
    """Statistics of one or more sources of labelled features, as states that reduce exactly.

    Batches wait until there are two thousand samples or so, and two for each class, since the work
    for each class is then done less often. Then they are added to sums about the first mean of
    each group (:class:`RunningSums`). Samples of new groups add rows to states that are lists with
    "cat" reduction; rows are merged once there is a new one for every four old ones, so that memory
    is O(G d) and a batch costs O(B d) or O(B d²), never O(G d). A gather across processes, or
    ``merge_state``, is one more concatenation.

    Features of float32 and less are multiplied in float32, which they were rounded to before, and
    summed in float64. Means, relative to the spread, and traces and the scatter, relative to its
    norm, are within 1e-5 of those in float64, and within 1e-6 unless features drift by much more
    than their spread. Measures that divide by small eigenvalues (NC1 of features in few
    directions) magnify that; ``precision="float64"`` spends about three times the time on products
    in float64. Features of float64 always get these.

    States live on the metric's device (move it with ``.to``) and features follow them there.

    Args:
        num_features: d.
        num_targets: columns that stand beside the features in every row.
        label_columns: labels of each sample of the reservoir; None for one number.
        covariance: "full" keeps the (d, d) scatter of every source, "trace" its trace only.
        precision: "features" or "float64", see above.
        sources: how many independent data sets are measured.
        trace_sources: how many more, whose scatter is never kept.
        reservoir: how many samples of every source to keep, drawn uniformly.
        seed: of the draw.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.
    """

    full_state_update = False  # states of parts merge into those of the whole
    is_differentiable = False
    higher_is_better = False

    def __init__(
        self,
        num_features: int,
        *,
        num_targets: int = 0,
        label_columns: int | None = None,
        covariance: Covariance = "full",
        precision: Precision = "features",
        sources: int = 1,
        trace_sources: int = 0,
        reservoir: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        # `compute` takes arguments, so that a cached result may belong to another weight.
        super().__init__(compute_with_cache=False, **kwargs)
        if covariance not in ("full", "trace"):
            raise ValueError(f"covariance={covariance!r} is unknown: choose from 'full', 'trace'")
        if precision not in ("features", "float64"):
            raise ValueError(
                f"precision={precision!r} is unknown: choose from 'features', 'float64'"
            )
        if not isinstance(reservoir, int) or reservoir < 0:
            raise ValueError(f"reservoir must be a number of samples (0: none), got {reservoir!r}")
        self.num_features = positive_int(num_features, "num_features")
        self._width = num_features + num_targets
        self.covariance, self.sources, self.reservoir = covariance, sources, reservoir
        self.precision = precision
        self._label_shape = () if label_columns is None else (label_columns,)
        self._all_sources = sources + trace_sources
        self._seeds = random.Random(seed)  # noqa: S311 - draws samples, keeps no secrets
        for source in range(self._all_sources):
            for name in _ROWS + _WAITING + (_SAMPLE if reservoir else ()):
                self.add_state(f"{name}_{source}", default=[], dist_reduce_fx="cat")
            if covariance == "full" and source < sources:
                zero = torch.zeros(self._width, self._width, dtype=torch.float64)
                self.add_state(f"scatter_{source}", default=zero, dist_reduce_fx="sum")

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """The same as ``update``: one batch has too few samples of a class to measure alone."""
        self.update(*args, **kwargs)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes, as torchmetrics does."""
        # A gather needs tensors of equal rank and dtype even from a process without data.
        for source in range(self._all_sources):
            self._take_in(source)
            self._merge_rows(source)
            self._trim_sample(source)
        super().sync(*args, **kwargs)

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """As in torchmetrics, and the process's own states also come back after an error."""
        try:
            with super().sync_context(*args, **kwargs):
                yield
        except BaseException:
            # A generator context manager that is not prepared for errors stops at its yield.
            if self._is_synced:
                self.unsync()
            raise

    def class_statistics(self, source: int = 0) -> ClassStatistics:
        """Statistics of all data seen by all processes; every process must call this.

        Raises:
            ValueError: if there is no data yet.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._statistics(source)

    def _statistics(self, source: int = 0, what: str = "") -> ClassStatistics:
        """Statistics of the states as they are, gathered or not."""
        self._take_in(source)
        rows = self._rows(source)
        if not len(rows.keys):
            raise ValueError(f"{type(self).__name__} has seen no data{what}: call update first")
        return rows.statistics()

    def _add_batch(self, features: Tensor, keys: Tensor, source: int = 0) -> None:
        """Take in a checked batch; nothing changes if its features are not finite."""
        features, keys = features.detach().to(self.device), keys.to(self.device)
        if not len(features):
            return
        largest = check_finite(features)
        products = at_least_float32(features.dtype)
        if self.precision == "float64" or not _FLOAT32_RANGE[0] < largest < _FLOAT32_RANGE[1]:
            products = torch.float64
        waiting = getattr(self, f"waiting_features_{source}")
        waiting.append(features.to(products, copy=True))  # theirs may be written over
        getattr(self, f"waiting_keys_{source}").append(keys.clone())
        groups = sum(map(len, getattr(self, f"keys_{source}")[:1]))
        if sum(map(len, waiting)) >= max(_CHUNK_ENTRIES // self._width, 2 * groups):
            self._take_in(source)

    def _draw_samples(self, features: Tensor, labels: Tensor, source: int = 0) -> None:
        """Let the samples of a batch that was taken in compete for a place in the reservoir."""
        if not self.reservoir or not len(features):
            return
        sample = Sample.draw(features.to(self.device), labels.to(self.device), self._seeds)
        for name in _SAMPLE:
            getattr(self, f"{name}_{source}").append(getattr(sample, name))
        if sum(map(len, getattr(self, f"labels_{source}"))) > 2 * self.reservoir:
            self._trim_sample(source)

    def _take_in(self, source: int) -> None:
        """Add the samples that wait to the sums, and merge rows if that halves them."""
        batches = getattr(self, f"waiting_features_{source}")
        if not len(batches):  # as in states that were gathered, where nothing waits
            return
        keys = self._whole(f"waiting_keys_{source}", torch.int64)
        for name in _WAITING:
            setattr(self, f"{name}_{source}", [])
        table, *others = self._parts(source)
        if not exact_products(self.device):
            batches = [batch.to(torch.float64) for batch in batches]
        with torch.autocast(self.device.type, enabled=False):
            table, new = replace(table, scatter=self._scatter(source)).added(batches, keys)
        parts = [part for part in (table, *others, new) if len(part.keys)]
        self._set_parts(source, parts, table.scatter)
        if sum(len(part.keys) for part in parts[1:]) >= max(len(parts[0].keys) // 4, _NEW_ROWS):
            self._merge_rows(source)

    def _merge_rows(self, source: int) -> None:
        """Leave one row a group and one tensor a state."""
        merged = self._rows(source).unified()
        self._set_parts(source, [merged], merged.scatter)

    def _parts(self, source: int) -> list[RunningSums]:
        """The rows of list states as they came, at least one entry, without the scatter."""
        columns = [getattr(self, f"{name}_{source}") for name in _ROWS]
        if not columns[0]:
            return [self._rows(source)]
        return [RunningSums(*part) for part in zip(*columns, strict=True)]

    def _set_parts(self, source: int, parts: list[RunningSums], scatter: Tensor | None) -> None:
        for name in _ROWS:
            setattr(self, f"{name}_{source}", [getattr(part, name) for part in parts])
        if scatter is not None:
            setattr(self, f"scatter_{source}", scatter)

    def _scatter(self, source: int) -> Tensor | None:
        return getattr(self, f"scatter_{source}", None)

    def _trim_sample(self, source: int) -> None:
        """Leave no more than the reservoir holds and one tensor a state."""
        if self.reservoir:
            sample = self._sample(source)
            for name in _SAMPLE:
                setattr(self, f"{name}_{source}", [getattr(sample, name)])

    def _rows(self, source: int) -> RunningSums:
        return RunningSums(
            keys=self._whole(f"keys_{source}", torch.int64),
            counts=self._whole(f"counts_{source}", torch.int64),
            shifts=self._whole(f"shifts_{source}", torch.float64, self._width),
            totals=self._whole(f"totals_{source}", torch.float64, self._width),
            squares=self._whole(f"squares_{source}", torch.float64),
            scatter=self._scatter(source),
        )

    def _sample(self, source: int = 0) -> Sample:
        """A uniform sample of the data that the states stand for, gathered or not."""
        return Sample(
            priorities=self._whole(f"priorities_{source}", torch.float64),
            features=self._whole(f"features_{source}", torch.float64, self._width),
            labels=self._whole(f"labels_{source}", torch.int64, *self._label_shape),
        ).smallest(self.reservoir)

    def _whole(self, name: str, dtype: torch.dtype, *trailing: int) -> Tensor:
        """A list state as one tensor, of no rows when there is no data."""
        value = getattr(self, name)  # a list here, a tensor once gathered
        parts = [value] if isinstance(value, Tensor) else value
        empty = torch.zeros(0, *trailing, dtype=dtype, device=self.device)
        return torch.cat([empty, *(part for part in parts if len(part))])


def check_finite(features: Tensor) -> float:
    """The largest absolute entry; ValueError for NaN, infinity, or squares beyond float64."""
    if not features.numel():
        return 0.0
    # NaN and infinity reach the largest entry; squared distances are at most this large.
    low, high = torch.stack(torch.aminmax(features)).tolist()
    largest: float = max(-low, high)
    if not math.isfinite((2 * largest) * (2 * largest) * features.numel()):
        raise ValueError(NOT_FINITE)
    return largest


def exact_products(device: torch.device) -> bool:
    """Whether products of float32 matrices are of that precision: users may allow TF32."""
    allowed = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return torch.get_float32_matmul_precision() == "highest" and not allowed
