"""What all collapse measures share: class statistics as torchmetrics states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from etf_heads._tasks import positive_int
from etf_heads.collapse._labels import check_features
from etf_heads.collapse._statistics import ClassStatistics

Covariance = Literal["full", "trace"]
"""Keep the (d, d) within-class scatter, or its trace only."""

_ROWS = ("keys", "counts", "means", "traces")
_SMALLEST_TABLE = 1024  # rows below which merging more often would save no memory worth having


class CollapseMetric(Metric):
    """Statistics of one or more sources of labelled features, as states that reduce exactly.

    Each batch appends one row for each group in it (key, count, mean, trace) to states that are
    lists with "cat" reduction; rows of equal key are merged once there are as many new rows as
    old ones, so that memory is O(G d) and a batch costs O(B d) or O(B d²), never O(G d). A
    gather across processes, or ``merge_state``, is one more concatenation.

    States live on the metric's device (move it with ``.to``) and features follow them there.

    Args:
        num_features: d.
        covariance: "full" keeps the (d, d) scatter of every source, "trace" its trace only.
        sources: how many independent data sets are measured.
        kwargs: further keyword arguments of :class:`torchmetrics.Metric`.
    """

    full_state_update = False  # states of parts merge into those of the whole
    is_differentiable = False
    higher_is_better = False

    def __init__(
        self, num_features: int, *, covariance: Covariance, sources: int = 1, **kwargs: Any
    ) -> None:
        # `compute` takes arguments, so that a cached result may belong to another weight.
        super().__init__(compute_with_cache=False, **kwargs)
        if covariance not in ("full", "trace"):
            raise ValueError(f"covariance={covariance!r} is unknown: possible are 'full', 'trace'")
        self.num_features = positive_int(num_features, "num_features")
        self.covariance = covariance
        self.sources = sources
        for source in range(sources):
            for name in _ROWS:
                self.add_state(f"{name}_{source}", default=[], dist_reduce_fx="cat")
            if covariance == "full":
                zero = torch.zeros(num_features, num_features, dtype=torch.float64)
                self.add_state(f"scatter_{source}", default=zero, dist_reduce_fx="sum")

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """The same as ``update``: one batch has too few samples of a class to measure alone."""
        self.update(*args, **kwargs)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes, as torchmetrics does."""
        # A gather needs tensors of equal rank and dtype even from a process without data.
        for source in range(self.sources):
            self._merge_rows(source)
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

    def _statistics(self, source: int = 0) -> ClassStatistics:
        """Statistics of the states as they are, gathered or not."""
        self._merge_rows(source)
        rows = self._rows(source)
        if not len(rows.keys):
            raise ValueError(f"{type(self).__name__} has seen no data: call update first")
        return rows

    def _add_batch(self, features: Tensor, keys: Tensor, source: int = 0) -> None:
        """Take in a batch of checked labels; nothing changes if its features are not finite."""
        features = check_features(features, self.num_features)
        if not len(features):
            return
        batch = ClassStatistics.from_batch(
            features.detach().to(self.device),
            keys.to(self.device),
            covariance=self.covariance == "full",
        )
        # NaN and infinity reach a trace from any entry: the small tensor tells for the large.
        if not batch.traces.isfinite().all():
            raise ValueError(
                "features have NaN or infinite entries (or squares beyond float64): "
                "this batch was not taken in"
            )
        for name in _ROWS:
            getattr(self, f"{name}_{source}").append(getattr(batch, name))
        if batch.scatter is not None:
            name = f"scatter_{source}"
            setattr(self, name, getattr(self, name) + batch.scatter)
        self._merge_rows(source, enough_of_them=True)

    def _merge_rows(self, source: int, *, enough_of_them: bool = False) -> None:
        """Leave one row a group and one tensor a state; perhaps only if that halves the rows."""
        keys = getattr(self, f"keys_{source}")
        if enough_of_them:
            new = sum(len(part) for part in keys[1:])
            if new < max(len(keys[0]) if keys else 0, _SMALLEST_TABLE):
                return
        merged = self._rows(source).unified()
        for name in _ROWS:
            setattr(self, f"{name}_{source}", [getattr(merged, name)])
        if merged.scatter is not None:
            setattr(self, f"scatter_{source}", merged.scatter)

    def _rows(self, source: int) -> ClassStatistics:
        empty = ClassStatistics(
            torch.zeros(0, dtype=torch.int64, device=self.device),
            torch.zeros(0, dtype=torch.int64, device=self.device),
            torch.zeros(0, self.num_features, dtype=torch.float64, device=self.device),
            torch.zeros(0, dtype=torch.float64, device=self.device),
        )
        rows = {}
        for name in _ROWS:
            value = getattr(self, f"{name}_{source}")  # a list here, a tensor once gathered
            parts = [value] if isinstance(value, Tensor) else value
            rows[name] = torch.cat([getattr(empty, name), *parts])
        return ClassStatistics(**rows, scatter=getattr(self, f"scatter_{source}", None))
