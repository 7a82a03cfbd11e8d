"""Choice of the code with the smallest coherence, for any number of classes and features."""

from __future__ import annotations

import torch

from etf_heads._tasks import Tasks, TaskSpec, positive_int
from etf_heads.codes._base import Code
from etf_heads.codes._bases import BasesCode
from etf_heads.codes._cross_polytope import CrossPolytopeCode
from etf_heads.codes._kerdock import DelsarteGoethalsCode, GoldCode, KerdockCode
from etf_heads.codes._simplex import SimplexCode

_FAMILIES: tuple[type[BasesCode], ...] = (KerdockCode, GoldCode, DelsarteGoethalsCode)


def spherical_code(
    tasks: TaskSpec | Tasks, in_features: int, *, device: torch.device | str | None = None
) -> Code:
    r"""A code for any number of classes in d dimensions, with products that need no matrix.

    The first that has room: orthogonal simplices (:class:`SimplexCode`, for K up to d + 1), the
    cross-polytope (K up to 2d), and of the codes of many bases the one with the smallest largest
    cosine: :class:`KerdockCode` in a power of four, :class:`GoldCode` in twice one,
    :class:`DelsarteGoethalsCode` when these are full. Codes that are narrower than the feature
    space leave the rest to the orientation.

    Args:
        tasks: K for one task, class counts by name or in order for several, which share the
            space: orthogonal while there is room, at small angles after that.
        in_features: d.
        device: of what the code keeps.

    Raises:
        ValueError: if no code has so many vectors.

    Example:
        >>> for classes in (65, 128, 1000, 66048, 100_000):
        ...     print(spherical_code(classes, 64 if classes < 1001 else 256))
        SimplexCode(classes=[65], columns=64)
        CrossPolytopeCode(classes=[128], columns=64)
        KerdockCode(classes=[1000], columns=64)
        KerdockCode(classes=[66048], columns=256)
        DelsarteGoethalsCode(classes=[100000], columns=256)
    """
    tasks, in_features = Tasks.parse(tasks), positive_int(in_features, "in_features")
    if tasks.rank <= in_features:
        return SimplexCode(tasks).fitting(in_features)
    lines = BasesCode.count_lines(tasks)
    if lines <= in_features:
        return CrossPolytopeCode(tasks, device=device)
    widths = [2**i for i in range(in_features.bit_length() - 1, -1, -1)][:2]
    found = [
        family(tasks, width, device="meta")
        for width in widths
        for family in _FAMILIES
        if family.room(width) >= lines
    ]
    if not found:
        most = 2 * max(family.room(width) for width in widths for family in _FAMILIES)
        raise ValueError(
            f"in_features={in_features} is too small for {tasks.total:,} classes: there are codes "
            f"of up to {max(most, 2 * in_features):,}; take more features (a fixed or learned "
            "linear layer before the head will do), or class vectors of your own in a GramCode"
        )
    best = min(found, key=lambda code: (code.coherence, -code.columns))
    return type(best)(tasks, best.columns, device=device)
