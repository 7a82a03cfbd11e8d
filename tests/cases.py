"""Three tables, of codes, orientations and heads: every law is checked on all of their rows.

A new code or orientation is one row here: of ``CODES``, how to make it for its tasks, of
``ORIENTATIONS``, how to make it for d and n. Heads of it follow: ``EVERY_HEAD`` has each code in
several widths and orientations. Laws of heads do not depend on the pair of code and orientation but
by the number of columns, so that the heads cover each code, each orientation and each regime of
columns, and not their product; tests with hypothesis draw pairs at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import cycle
from typing import Any

import torch

from etf_heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
    PrototypeHead,
    SphericalCodeHead,
    Tasks,
)
from etf_heads.codes import (
    AssignedCode,
    Code,
    CrossPolytopeCode,
    DelsarteGoethalsCode,
    GoldCode,
    GramCode,
    KerdockCode,
    MultiCentreCode,
    SimplexCode,
)
from etf_heads.geometry import compound_etf
from etf_heads.heads import FixedHead, FixedRegressionHead, Head
from etf_heads.orientation import (
    CanonicalOrientation,
    KroneckerOrientation,
    MatrixOrientation,
    Orientation,
    RandomOrientation,
    StiefelOrientation,
    TiledOrientation,
)
from tests.codes.two_bases import TwoBasesCode

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


def gram() -> torch.Tensor:
    """Of class vectors of lengths about one that span 8 of 9 dimensions."""
    vectors = orthonormal(9, 8, seed=7) * torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
    return 9 * vectors @ vectors.T / vectors.square().sum()


def assigned(code: Code, tasks: Any) -> AssignedCode:
    """Some rows of a code in a random order."""
    generator = torch.Generator().manual_seed(7)
    result = AssignedCode(code, tasks)
    orders = [torch.randperm(k, generator=generator) for k in code.tasks.sizes]
    parts = zip(code.tasks.slices, orders, result.tasks.sizes, strict=True)
    result.assign(torch.cat([rows.start + order[:k] for rows, order, k in parts]))
    return result


_TASKS = {"left": 10, "right": 10}
CODES: dict[str, Callable[[], Code]] = {
    "simplex": lambda: SimplexCode(5),
    "compound": lambda: SimplexCode({"a": 3, "b": 4}),
    "independent": lambda: SimplexCode([5, 3, 5], cross_task="independent"),
    "gram": lambda: GramCode(gram(), [3, 4, 2]),
    "two bases": lambda: TwoBasesCode(12),
    "cross-polytope": lambda: CrossPolytopeCode({"a": 5, "b": 4}),
    "kerdock": lambda: KerdockCode([9, 12]),
    "gold": lambda: GoldCode(41),
    "delsarte-goethals": lambda: DelsarteGoethalsCode(291),
    "centres": lambda: MultiCentreCode([1, 3, 3, 2]),
    "directions of centres": lambda: MultiCentreCode([4, 4], theta=0.7, reduce="direction"),
    "permuted": lambda: assigned(KerdockCode([9, 12]), [9, 12]),
    "chosen": lambda: assigned(KerdockCode(23), 8),
}
"""Codes before they are fitted to a feature space."""


def widths(code: Code) -> tuple[int, int, int]:
    """In-features of a code: the fewest that it fits into, one more, and many more."""
    least = next(d for d in range(1, 1000) if fits(code, d))
    return least, least + 1, 3 * max(code.rows, least) + 1


def fits(code: Code, in_features: int) -> bool:
    try:
        return code.fitting(in_features) is not None
    except ValueError:
        return False


@dataclass(frozen=True)
class HeadCase:
    """A head, made anew by each test.

    Attributes:
        in_features: d.
        tasks: a number of classes, class counts, or a row of CODES.
        orientation: a row of ORIENTATIONS; "nearest", "class means" and
            "prototypes" make heads that observe.
        options: of the head.
    """

    in_features: int
    tasks: Any
    orientation: str = "tiled"
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, **overrides: Any) -> Head:
        """Build it; float64 unless a test says otherwise."""
        options = {"dtype": torch.float64, "orientation": self.orientation}
        options |= self.options | overrides
        if self.orientation in _OBSERVING:
            return self._observing(options)
        if options["orientation"] == "given":
            columns = (
                self.code().fitting(self.in_features).columns if self.named else self.sizes.rank
            )
            options["orientation"] = orthonormal(self.in_features, columns)
        if self.named:
            return FixedHead(self.in_features, self.code(), **options)
        if "target_covariance" in options:
            return FixedRegressionHead(self.in_features, **options)
        if options.pop("spherical", False):
            return SphericalCodeHead(self.in_features, self.tasks, **options)
        if isinstance(self.tasks, int):
            return ETFHead(self.in_features, self.tasks, **options)
        kind = CorrelatedETFHead if "label_counts" in options else CompoundETFHead
        return kind(self.in_features, self.tasks, **options)

    def _observing(self, options: dict[str, Any]) -> Head:
        del options["orientation"]
        head = _OBSERVING[self.orientation](self.in_features, self.tasks, **options)
        turn = orthonormal(max(self.in_features, self.sizes.rank), self.in_features, seed=5)
        frame = compound_etf(self.sizes, self.sizes.rank) @ turn[: self.sizes.rank]
        head.observe(*all_classes(frame + 0.1 * turn[0], self.sizes))
        return head

    def code(self) -> Code:
        """The row of CODES."""
        return CODES[self.tasks]()

    @property
    def named(self) -> bool:
        return isinstance(self.tasks, str)

    @property
    def sizes(self) -> Tasks:
        if "target_covariance" in self.options:
            return Tasks((self.tasks,), single=True)  # one target is enough
        return self.code().tasks if self.named else Tasks.parse(self.tasks)

    @property
    def orthogonal(self) -> bool:
        return self.options.get("cross_task") != "independent"

    @property
    def stores_data(self) -> bool:
        """Whether the geometry has parts that no formula rebuilds."""
        if self.orientation in ("given", *_OBSERVING):
            return True
        if {"label_counts", "target_covariance"} & set(self.options):
            return True
        return self.named and bool(self.code().state_dict())

    def __str__(self) -> str:
        options = ",".join(
            k if isinstance(v, torch.Tensor) else f"{k}={v}" for k, v in self.options.items()
        )
        what = self.tasks if self.named else list(self.sizes.sizes)
        return f"d{self.in_features}-{what}-{self.orientation}-{options}"


_OBSERVING: dict[str, Callable[..., Head]] = {
    "nearest": NearestETFHead,
    "class means": ClassMeanHead,
    "prototypes": PrototypeHead,
}
HEADS = [
    # one task: K = 2, d at the bound, d = K, d prime, d a power of two
    HeadCase(1, 2, "canonical"),
    HeadCase(9, 10, "hadamard"),
    HeadCase(10, 10, "tiled"),
    HeadCase(127, 10, "hadamard"),
    HeadCase(64, 7, "random"),
    HeadCase(40, 5, "given"),
    HeadCase(4, 5, "given"),
    HeadCase(40, 5, "learned"),
    HeadCase(40, 5, "nearest"),
    HeadCase(4, 5, "nearest"),
    # several: at the bound sum K_t - T, between the two bounds, at sum K_t, above
    HeadCase(18, _TASKS, "tiled"),
    HeadCase(19, _TASKS, "hadamard"),
    HeadCase(20, _TASKS, "canonical"),
    HeadCase(128, _TASKS, "hadamard"),
    HeadCase(13, [2, 3, 5, 7], "hadamard"),
    HeadCase(17, [2, 3, 5, 7], "random"),
    HeadCase(31, [2, 3, 5, 7], "tiled"),
    HeadCase(18, _TASKS, "learned"),
    HeadCase(18, _TASKS, "nearest"),
    HeadCase(31, [2, 3, 5, 7], "nearest", {"bias": True, "scale": 3.0, "learn_scale": True}),
    HeadCase(64, [2] * 40),
    HeadCase(100, [2] * 40),
    # independent tasks: less room than orthogonality needs, down to one task's own
    *(
        HeadCase(d, [5, 3, 5], o, {"cross_task": "independent"})
        for d, o in zip((4, 5, 7, 9, 10, 13), cycle(NAMED))
    ),
    # what else a head can have
    HeadCase(128, _TASKS, "tiled", {"bias": True, "scale": 3.0, "learn_scale": True}),
    HeadCase(128, _TASKS, "random", {"bias": True, "feature_norm": "batch"}),
    HeadCase(64, 10, "hadamard", {"feature_norm": "layer", "scale": 2.0}),
    HeadCase(64, 10, "tiled", {"feature_norm": "unit", "scale": 16.0, "bias": True}),
]
"""Every head whose tasks are simplex ETFs."""


def of_codes() -> Iterator[HeadCase]:
    """Each code in each of its widths, once with options, the orientations in turn."""
    orientations = cycle((*NAMED, "given", "learned"))
    options = cycle([{}, {}, {"bias": True, "scale": 2.0, "learn_scale": True}, {}])
    for name, make in CODES.items():
        for in_features in widths(make()):
            yield HeadCase(in_features, name, next(orientations), next(options))


_COUNTS = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.1
_COVARIANCES = {n: torch.cov(orthonormal(n + 3, n, seed=n).T * 4).reshape(n, n) for n in (1, 3)}
_LAMBDAS = {"lambda_w": 1e-2, "lambda_h": 4e-2, "bias": False}
_SPHERICAL = {"spherical": True, "feature_norm": None, "scale": 1.0}
OTHERS = [
    *(
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
    ),
    *(
        HeadCase(d, [3, 4, 2], o, {"label_counts": _COUNTS} | options)
        for d, o, options in [
            (6, "tiled", {}),
            (20, "hadamard", {"unit_norm": False, "scale": 2.0}),
            (9, "random", {"bias": True, "learn_scale": True}),
            (12, "tiled", {"feature_norm": "batch"}),
        ]
    ),
    *(
        HeadCase(d, n, o, {"target_covariance": _COVARIANCES[n]} | _LAMBDAS | options)
        for d, n, o, options in [
            (1, 1, "tiled", {"bias": True}),
            (3, 3, "hadamard", {}),
            (12, 3, "random", {"bias": True, "feature_norm": "batch"}),
            (12, 3, "learned", {}),
        ]
    ),
    HeadCase(3, 5, "class means"),
    HeadCase(6, [3, 2], "class means", {"centred": False}),
    HeadCase(12, {"a": 3, "b": 4}, "class means", {"bias": True, "learn_scale": True}),
    *(
        HeadCase(d, tasks, "prototypes", {"scale": 1.0} | options)
        for d, tasks, options in [
            (3, 5, {"feature_norm": None}),
            (6, [3, 2], {"feature_norm": "unit", "means_dtype": torch.float64, "bias": True}),
            (12, {"a": 3, "b": 4}, {"feature_norm": None, "learn_scale": True}),
        ]
    ),
    *of_codes(),
]
EVERY_HEAD = HEADS + OTHERS
"""Every head, for what holds whatever the geometry."""


def all_logits(output: Any) -> torch.Tensor:
    """A head's output, whatever its shape, as one tensor (..., sum K_t)."""
    if isinstance(output, torch.Tensor):
        return output
    return torch.cat(list(output.values() if isinstance(output, dict) else output), dim=-1)


def all_classes(means: torch.Tensor, tasks: Tasks) -> tuple[torch.Tensor, Any]:
    """A batch in which every tuple of classes has the sum of its class means, once."""
    tuples = torch.cartesian_prod(*(torch.arange(k) for k in tasks.sizes)).reshape(-1, len(tasks))
    first = torch.tensor([rows.start for rows in tasks.slices])
    batch = means[tuples + first].sum(1)
    return batch, tasks.pack(tuples.unbind(1))


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


def part_of(labels, rows):
    """Some rows of every task's labels."""
    return {task: column[rows] for task, column in labels.items()}


def class_means(h: torch.Tensor, y: torch.Tensor, classes: int) -> torch.Tensor:
    """Means of the features of each class, one class at a time."""
    return torch.stack([h[y == k].mean(0) for k in range(classes)])


def parts(case: HeadCase) -> set[str]:
    """What compilers and tracers meet in a head: code, orientation, norm, tasks and options."""
    head = case.make()
    logits = head.tasks.pack([torch.zeros(1)] * len(head.tasks))
    found = {case.orientation, type(head.norm).__name__, type(logits).__name__}
    found |= case.options.keys() & {"bias", "learn_scale", "cross_task"}
    code = getattr(head, "code", None)
    while code is not None:
        found.add(type(code).__name__)
        code = getattr(code, "code", None)  # of an assignment
    return found


def covering(cases: list[HeadCase]) -> list[HeadCase]:
    """Few of them that have all parts between them, for laws that cost seconds a head."""
    left = [(case, parts(case)) for case in cases]
    often = Counter(part for _, own in left for part in own)
    chosen = []
    while left:
        case, new = max(left, key=lambda pair: sum(Fraction(1, often[part]) for part in pair[1]))
        chosen.append(case)
        left = [(other, own - new) for other, own in left if own - new]
    return chosen


REPRESENTATIVES = covering(EVERY_HEAD)
"""Heads with every part that there is between them."""
