"""The table of heads and orientations that every law is checked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from etf_heads import (
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
    SphericalCodeHead,
)
from etf_heads._tasks import Tasks
from etf_heads.geometry import compound_etf
from etf_heads.heads import FixedHead
from etf_heads.orientation import (
    CanonicalOrientation,
    KroneckerOrientation,
    MatrixOrientation,
    Orientation,
    RandomOrientation,
    StiefelOrientation,
    TiledOrientation,
)

STRUCTURED = ("canonical", "tiled", "hadamard")
NAMED = (*STRUCTURED, "random")


def orthonormal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(matrix).Q


def given_orientation(in_features: int, columns: int) -> MatrixOrientation:
    return MatrixOrientation(orthonormal(in_features, columns))


ORIENTATIONS: dict[str, Callable[[int, int], Orientation]] = {
    "canonical": CanonicalOrientation,
    "tiled": TiledOrientation,
    "hadamard": KroneckerOrientation,
    "random": lambda d, n: RandomOrientation(d, n, seed=3, dtype=torch.float64),
    "given": given_orientation,
    "learned": lambda d, n: StiefelOrientation(d, n, dtype=torch.float64),
}


@dataclass(frozen=True)
class HeadCase:
    """A head, made anew by each test."""

    in_features: int
    tasks: Any  # an int makes a single-task head
    orientation: str = "tiled"
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, **overrides: Any) -> FixedHead | NearestETFHead:
        """Build it; float64 unless a test says otherwise."""
        options = {"dtype": torch.float64, "orientation": self.orientation}
        options |= self.options | overrides
        if options["orientation"] == "given":
            options["orientation"] = orthonormal(self.in_features, self.sizes.rank)
        if self.orientation == "nearest":
            return self._nearest(options)
        if options.pop("spherical", False):
            return SphericalCodeHead(self.in_features, self.tasks, **options)
        if isinstance(self.tasks, int):
            return ETFHead(self.in_features, self.tasks, **options)
        kind = CorrelatedETFHead if "label_counts" in options else CompoundETFHead
        return kind(self.in_features, self.tasks, **options)

    def _nearest(self, options: dict[str, Any]) -> NearestETFHead:
        del options["orientation"]
        head = NearestETFHead(self.in_features, self.tasks, **options)
        turn = orthonormal(self.in_features, self.in_features, seed=5)
        frame = compound_etf(self.sizes, self.sizes.rank) @ turn[: self.sizes.rank]
        head.observe(*all_classes(frame + 0.1 * turn[0], self.sizes, isinstance(self.tasks, int)))
        return head

    @property
    def sizes(self) -> Tasks:
        return Tasks.parse([self.tasks] if isinstance(self.tasks, int) else self.tasks)

    @property
    def orthogonal(self) -> bool:
        return self.options.get("cross_task") != "independent"

    def __str__(self) -> str:
        options = ",".join(
            k if isinstance(v, torch.Tensor) else f"{k}={v}" for k, v in self.options.items()
        )
        return f"d{self.in_features}-{list(self.sizes.sizes)}-{self.orientation}-{options}"


_TASKS = {"left": 10, "right": 10}
HEADS = [
    # one task: K = 2, d at the bound, d = K, d prime, d a power of two, d much larger
    *(HeadCase(d, k, o) for o in NAMED for d, k in [(1, 2), (9, 10), (10, 10), (127, 10), (64, 7)]),
    HeadCase(40, 5, "given"),
    HeadCase(4, 5, "given"),
    HeadCase(40, 5, "learned"),
    HeadCase(40, 5, "nearest"),
    HeadCase(4, 5, "nearest"),
    # several: at the bound sum K_t - T, between the two bounds, at sum K_t, above
    *(HeadCase(d, _TASKS, o) for o in NAMED for d in (18, 19, 20, 128)),
    *(HeadCase(d, [2, 3, 5, 7], o) for o in NAMED for d in (13, 17, 31)),
    HeadCase(32, _TASKS, "given"),
    HeadCase(18, _TASKS, "learned"),
    HeadCase(18, _TASKS, "nearest"),
    HeadCase(31, [2, 3, 5, 7], "nearest", {"bias": True, "scale": 3.0, "learn_scale": True}),
    HeadCase(64, [2] * 40),
    HeadCase(100, [2] * 40),
    # independent tasks: less room than orthogonality needs, down to one task's own
    *(
        HeadCase(d, [5, 3, 5], o, {"cross_task": "independent"})
        for o in NAMED
        for d in (4, 5, 7, 9, 10, 13)
    ),
    # what else a head can have
    HeadCase(128, _TASKS, "tiled", {"bias": True, "scale": 3.0, "learn_scale": True}),
    HeadCase(128, _TASKS, "random", {"bias": True, "feature_norm": "batch"}),
    HeadCase(64, 10, "hadamard", {"feature_norm": "layer", "scale": 2.0}),
    HeadCase(64, 10, "tiled", {"feature_norm": "unit", "scale": 16.0, "bias": True}),
]
"""Every head whose tasks are simplex ETFs."""


_COUNTS = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.1
CORRELATED = [
    HeadCase(d, [3, 4, 2], o, {"label_counts": _COUNTS} | options)
    for d, o, options in [
        (6, "tiled", {}),
        (20, "hadamard", {"unit_norm": False, "scale": 2.0}),
        (9, "random", {"bias": True, "learn_scale": True}),
        (12, "tiled", {"feature_norm": "batch"}),
    ]
]
_SPHERICAL = {"spherical": True, "feature_norm": None, "scale": 1.0}
SPHERICAL = [
    HeadCase(d, tasks, o, _SPHERICAL | options)
    for d, tasks, o, options in [
        (9, 10, "tiled", {}),  # a simplex
        (9, 17, "random", {}),  # a cross-polytope
        (16, 287, "tiled", {}),  # a Kerdock code: all of it, but for one class
        (20, {"left": 40, "right": 31}, "hadamard", {"scale": 4.0, "feature_norm": "unit"}),
        (32, [150, 7], "tiled", {"learn_scale": True}),  # Gold's forms
        (17, 300, "learned", {}),  # a Delsarte-Goethals code
        (64, 200, "tiled", {"bias": True, "feature_norm": "batch"}),
    ]
]
EVERY_HEAD = HEADS + CORRELATED + SPHERICAL
"""Every head, for what holds whatever the geometry."""


def all_logits(output: Any) -> torch.Tensor:
    """A head's output, whatever its shape, as one tensor (..., sum K_t)."""
    if isinstance(output, torch.Tensor):
        return output
    return torch.cat(list(output.values() if isinstance(output, dict) else output), dim=-1)


def all_classes(means: torch.Tensor, tasks: Tasks, one_task: bool) -> tuple[torch.Tensor, Any]:
    """A batch in which every tuple of classes has the sum of its class means, once."""
    tuples = torch.cartesian_prod(*(torch.arange(k) for k in tasks.sizes)).reshape(-1, len(tasks))
    first = torch.tensor([rows.start for rows in tasks.slices])
    batch = means[tuples + first].sum(1)
    return batch, tuples[:, 0] if one_task else tasks.pack(tuples.unbind(1))


def features(case: HeadCase, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    size = (*shape, case.in_features)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)


def observed(
    tasks: Any, size: int = 32, dim: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, Any]:
    """A batch for heads that observe: features (size, dim), and labels in the form of the tasks."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(size, dim, generator=generator, dtype=torch.float64).to(dtype)
    if isinstance(tasks, int):
        return h, torch.randint(tasks, (size,), generator=generator)
    sizes = tasks.values() if isinstance(tasks, dict) else tasks
    labels = [torch.randint(k, (size,), generator=generator) for k in sizes]
    return h, dict(zip(tasks, labels, strict=True)) if isinstance(tasks, dict) else labels
