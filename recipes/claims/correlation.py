"""Correlated tasks: class vectors bend towards each other as Theorem 5.1 computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from recipes.claims.claim import BATCH_NORM, Claim, Criterion, Plan, Settings, Variant
from recipes.claims.record import Evidence, extras
from recipes.data import binary_digits_name
from recipes.data.images import ImageData
from recipes.pages.page import Figure
from recipes.pages.tables import Line
from recipes.training.network import Network
from recipes.training.result import RunResult
from recipes.verification.effective import Effective, closed_form, limit_cosine, rms
from recipes.verification.figures import measured_cosines
from recipes.verification.images import SweepRun, summarise, sweep_run

HEAD = "learned-norm"

TOLERANCE = 0.1


def _variants(*shares: float, of: Callable[[float], Settings]) -> dict[str, Variant]:
    return {f"p = {share:g}": Variant({"head": HEAD, **of(share)}) for share in shares}


def examine(network: Network, data: ImageData, result: RunResult) -> SweepRun:
    """The angle between the tasks and the accuracies of a run."""
    labels = data.train.labels
    share = float((labels[:, 0] == labels[:, 1]).double().mean())
    return sweep_run(network, data, share, result)


def judge(evidence: Evidence) -> list[Criterion]:
    """Cosines are near the theorem's limit for weak regularisation, and rise with p as it does."""
    sweeps = list(_by_share(evidence).items())
    seeds = range(len(sweeps[0][1]))
    found = [
        Criterion(
            "distance of the cosines from the theorem's, root mean square over p",
            [rms(runs[k].cosine - limit_cosine(p) for p, runs in sweeps) for k in seeds],
            "at most",
            TOLERANCE,
            "what remains between two random vectors at d = 60; heads that know nothing of the "
            f"correlation (cosine 0) are {rms(limit_cosine(p) for p, _ in sweeps):.2f} away",
        )
    ]
    for (lower, before), (upper, after) in pairwise(sweeps):
        rise = limit_cosine(upper) - limit_cosine(lower)
        found.append(
            Criterion(
                f"rise of the cosine from p = {lower:g} to p = {upper:g}",
                [after[k].cosine - before[k].cosine for k in seeds],
                "at least",
                round(rise / 2, 3),
                f"half of the theorem's {rise:.3f}",
            )
        )
    return found


def _by_share(evidence: Evidence) -> dict[float, list[SweepRun]]:
    found: dict[float, list[SweepRun]] = {}
    for records in evidence.values():
        runs = extras(records, SweepRun)
        found[runs[0].share] = runs
    return dict(sorted(found.items()))


def lines(evidence: Evidence) -> Iterator[Line]:
    """Cosines, measured and computed."""
    runs = [extras(records, SweepRun) for records in evidence.values()]
    shares = [of_share[0].share for of_share in runs]
    from_gaps = [
        [closed_form([run.share], _effective(run).strength_equal)[0] for run in of_share]
        for of_share in runs
    ]
    yield ("cosine between the tasks, measured", *(_mean([r.cosine for r in own]) for own in runs))
    yield ("Theorem 5.1, λ_W λ_H N → 0", *(f"{limit_cosine(share):.3f}" for share in shares))
    yield ("Theorem 5.1, λ's from the logit gaps", *map(_mean, from_gaps))


def _effective(run: SweepRun) -> Effective:
    if run.effective is None:
        raise ValueError(f"head={run.head}: only learned heads say which λ's they behave as")
    return run.effective


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.3f}"


def figures(evidence: Evidence) -> list[Figure]:
    """Measured cosines beside the closed form."""
    sweep = summarise([run for runs in _by_share(evidence).values() for run in runs])
    caption = (
        "Cosine between the class vectors of label 0 of the two tasks, each less its task's mean, "
        "means over seeds with 95% intervals. The dotted curve is the theorem's limit for "
        "vanishing regularisation, which the criteria use, since it has no free number. A network "
        "has no λ_H of its own: the crosses put in the λ_W λ_H N that its mean logit gap on images "
        "with equal labels would belong to; a further curve, if there is one, the number with "
        "which the closed form fits best."
    )
    return [Figure(measured_cosines(sweep), caption)]


CLAIM = Claim(
    name="correlation",
    title="Correlated labels bend the tasks' class vectors towards each other",
    says=(
        "“Neural Collapse in Multi-Task Learning”, Theorem 5.1: of two binary tasks whose labels "
        "are equal in a share p of the images, the optimal class vectors are orthogonal at p = ½ "
        "and approach each other as p rises; the angle has a closed form. Tested with learned "
        "heads on two-digit images, each task asking whether its digit is 5 or more (at full size: "
        "whether it is a 0 or a 1); how digits are paired sets p, and nothing else changes."
    ),
    plans={
        "reduced": Plan(
            "multi-digits",
            BATCH_NORM,
            _variants(0.5, 0.8, 0.95, of=lambda share: {"data": binary_digits_name(share)}),
        ),
        "full": Plan(
            "multi-mnist-10-10",
            BATCH_NORM | {"classes": (2, 2)},
            _variants(0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, of=lambda share: {"agreement": share}),
        ),
    },
    judge=judge,
    measures=("s_nc1_ratio", "s_nc5"),
    examine=examine,
    lines=lines,
    figures=figures,
)
