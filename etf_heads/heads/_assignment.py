"""Assignment of class vectors to classes, by an assignment problem with their class means."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from etf_heads._tasks import positive_int
from etf_heads.codes import AssignedCode, BasesCode, Code, SimplexCode
from etf_heads.heads._fixed import FixedHead, on_device

Method = Literal["nearest", "hierarchical"]
_ROUNDS = 64


@torch.no_grad()
def assign_classes(
    head: FixedHead,
    class_means: Tensor,
    *,
    code: Code | None = None,
    method: Method = "nearest",
    block: int = 2048,
    sweeps: int = 2,
    seed: int = 0,
) -> tuple[float, float]:
    r"""Give each class the vector that its mean feature is nearest to, as far as all can have it.

    Any assignment of a code's vectors to classes is the same geometry, but not the same task: a
    network learns sooner when similar classes need not be separated along arbitrary directions. So
    after a short warm-up, or from a pretrained network, the sum of the cosines between class
    means and class vectors is maximised, and training goes on from there.

    Up to ``block`` classes are solved exactly (SciPy's linear assignment). More start from one of

    - "nearest": in rounds, each class proposes to the nearest vector that is free, and each vector
      takes the class that is nearest to it;
    - "hierarchical": class means and vectors are halved along the principal direction of the
      means, and halved again, until blocks are small enough to be solved exactly.

    Then, ``sweeps`` times, classes that are neighbours along a random direction exchange their
    vectors in blocks, each exchange solved exactly. No matrix of all classes is made: 100,000
    classes in blocks of 512 take minutes on one core, and two to three times the memory of their
    means.

    Args:
        head: with a code of more vectors than a simplex has; changed in place. Its class vectors
            are kept in ``state_dict`` from then on (``codebook.assignment``, 8 bytes a class),
            and a new head of the same arguments takes them over on loading.
        class_means: mean features (sum K_t, d), as they enter the head; only directions count.
            Of a class without data, zeros or NaN: it gets what is left.
        code: a larger code of as many columns to choose from, such as
            ``KerdockCode(66_048, 256)`` for a head of 10,000 classes.
        method: how to start above ``block`` classes.
        block: classes to solve for at once; time grows with its cube, memory with its square.
        sweeps: rounds of exchanges above ``block`` classes.
        seed: of their directions.

    Returns:
        The mean cosine of class means and class vectors, before and after.

    Raises:
        ValueError: if the means do not fit the head, or its code is a simplex, of which all
            assignments are the same.
        ImportError: without SciPy.

    Example:
        >>> from etf_heads import SphericalCodeHead
        >>> head = SphericalCodeHead(16, 200)
        >>> before, after = assign_classes(head, head.weight.roll(1, 0))
        >>> round(after, 4)
        1.0
    """
    own, larger = head.code, code
    base = own.base if isinstance(own, AssignedCode) else own
    if isinstance(base, SimplexCode):
        raise ValueError(
            "the class vectors of a simplex ETF are all at the same angle: every assignment is "
            "the same up to a rotation, which NearestETFHead finds"
        )
    if class_means.shape != (head.out_features, head.in_features):
        raise ValueError(
            f"class_means has shape {tuple(class_means.shape)}, expected "
            f"{(head.out_features, head.in_features)}"
        )
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
    block, directions = positive_int(block, "block"), _directions(head, class_means)
    before = _mean_cosine(own, directions)
    if larger is not None:
        if larger.columns != own.columns:
            raise ValueError(f"code has {larger.columns} columns, the head's {own.columns}")
        base = on_device(larger, directions.device)
    assigned = AssignedCode(base, head.tasks)
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for classes, rows in zip(head.tasks.slices, base.tasks.slices, strict=True):
        means = directions[classes]
        if len(means) > block and isinstance(base, BasesCode) and method == "nearest":
            chosen = _nearest(means, base, len(found))
        else:
            candidates = torch.arange(rows.start, rows.stop, device=means.device)
            chosen = _halved(means, base, candidates, block)
        for _ in range(sweeps if len(means) > block else 0):
            _exchange(means, base, chosen, block, generator)
        found.append(chosen)
    assigned.assign(torch.cat(found))
    head.codebook = assigned
    return before, _mean_cosine(assigned, directions)


def _directions(head: FixedHead, class_means: Tensor) -> Tensor:
    """Unit coordinates of centred class means, in each task; zero where there is no mean."""
    means = class_means.detach().to(head._like.device, torch.float32)
    coordinates = head.orientation.project(means).nan_to_num(0.0, 0.0, 0.0)
    seen = (coordinates != 0).any(1, keepdim=True)
    parts = []
    for rows in head.tasks.slices:
        some, there = coordinates[rows], seen[rows]
        centre = some.sum(0) / there.sum().clamp(min=1)
        parts.append(F.normalize((some - centre) * there))
    return torch.cat(parts)


def _mean_cosine(code: Code, directions: Tensor) -> float:
    total = 0.0
    for rows in torch.arange(code.rows, device=directions.device).split(65536):
        vectors = code.vectors(rows, dtype=directions.dtype)
        total += float((vectors * directions[rows]).sum())
    return total / code.rows


def _solve(means: Tensor, code: Code, rows: Tensor) -> Tensor:
    """The best of the rows for each of the means, (classes,), exactly."""
    try:
        from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ImportError(
            'assign_classes requires SciPy: pip install "etf_heads[recipes]"'
        ) from error
    scores = means @ code.vectors(rows, dtype=means.dtype).T
    _, columns = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
    return rows[torch.from_numpy(columns).to(rows.device)]


def _halved(means: Tensor, code: Code, rows: Tensor, block: int) -> Tensor:
    """Rows for the means: both are halved along a principal direction until blocks are small."""
    if len(means) <= block:
        return _solve(means, code, rows)
    direction = _principal_direction(means)
    classes = (means @ direction).argsort()
    along = torch.cat(
        [code.vectors(some, dtype=means.dtype) @ direction for some in rows.split(65536)]
    )
    rows = rows[along.argsort()]
    half = len(means) // 2
    cut = half * len(rows) // len(means)
    found = torch.empty_like(classes)
    found[classes[:half]] = _halved(means[classes[:half]], code, rows[:cut], block)
    found[classes[half:]] = _halved(means[classes[half:]], code, rows[cut:], block)
    return found


def _principal_direction(means: Tensor) -> Tensor:
    centred = means - means.mean(0)
    direction = centred[centred.square().sum(1).argmax()]
    for _ in range(20):
        direction = F.normalize(centred.T @ (centred @ direction), dim=0)
    return direction


def _exchange(
    means: Tensor, code: Code, chosen: Tensor, block: int, generator: torch.Generator
) -> None:
    """Classes that are neighbours along a random direction share out their rows anew."""
    direction = torch.randn(means.shape[1], generator=generator).to(means)
    for classes in (means @ direction).argsort().split(block):
        chosen[classes] = _solve(means[classes], code, chosen[classes])


def _nearest(means: Tensor, code: BasesCode, task: int) -> Tensor:
    """A row for each of the means, out of more: the nearest that none is nearer to, in rounds."""
    rows = code.tasks.slices[task]
    chosen = torch.full((len(means),), -1, device=means.device)
    waiting = means.any(1).nonzero().squeeze(1)
    free = torch.ones(rows.stop - rows.start, dtype=torch.bool, device=means.device)
    for _ in range(_ROUNDS):
        if not len(waiting):
            break
        values, nearest = code.topk(means[waiting], 1, task, among=free)
        order = values[:, 0].argsort(descending=True)
        winners = order[_first_of_each(nearest[order, 0])]
        chosen[waiting[winners]] = nearest[winners, 0]
        free[nearest[winners, 0]] = False
        still = torch.ones_like(waiting, dtype=torch.bool)
        still[winners] = False
        waiting = waiting[still]
    left = chosen < 0
    chosen[left] = free.nonzero().squeeze(1)[: int(left.sum())]
    return chosen + rows.start


def _first_of_each(values: Tensor) -> Tensor:
    """Mask of the first occurrence of each distinct value."""
    ordered, place = values.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return place[new]
