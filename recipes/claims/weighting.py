"""Task weighting strategies: collapse does not depend on how the losses become one step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from recipes.claims.claim import BATCH_NORM, Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, Record, fall, final, last_accuracy, points_ahead
from recipes.pages.canvas import COLOURS, GREYS, new_figure, svg_text
from recipes.pages.page import Figure
from recipes.training.weighting import WEIGHTINGS

LEARNED, FIXED = "learned-norm", "compound"


def _name(strategy: str, head: str) -> str:
    return f"{strategy}, {head}"


VARIANTS = {
    _name(strategy, head): Variant({"weighting": strategy, "head": head})
    for strategy in WEIGHTINGS
    for head in (LEARNED, FIXED)
}


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Every strategy ends where equal weights do: the worst of them, seed by seed, decides."""
    by_head = {
        head: [evidence[_name(strategy, head)] for strategy in WEIGHTINGS]
        for head in (LEARNED, FIXED)
    }
    tenth = "a tenth of its start: collapse is a fall by an order of magnitude"
    for head in (LEARNED, FIXED):
        yield Criterion(
            f"{head}: largest S_NC1 of all strategies, as a share of its start",
            _worst([fall(records, "s_nc1_ratio") for records in by_head[head]]),
            "at most",
            0.1,
            tenth,
        )
    yield Criterion(
        "learned-norm: largest S_NC3 of all strategies",
        _worst([final(records, "s_nc3") for records in by_head[LEARNED]]),
        "at most",
        0.05,
        "half the mean |cosine| 0.1 of random vectors at d = 60",
    )
    for head in (LEARNED, FIXED):
        yield Criterion(
            f"{head}: largest S_NC5 of all strategies",
            _worst([final(records, "s_nc5") for records in by_head[head]]),
            "at most",
            0.01,
            "one decision in a hundred",
        )
    ahead = map(points_ahead, by_head[FIXED], by_head[LEARNED])
    yield Criterion(
        "compound less learned-norm with the same strategy, in points, mean over strategies",
        [sum(of_seed) / len(of_seed) for of_seed in zip(*ahead, strict=True)],
        "at least",
        -0.2,
        "within 0.2 points of the learned head with the same normalisation, or better",
    )


def _worst(of_strategies: Sequence[Sequence[float]]) -> list[float]:
    # max() may pass over a NaN, which is worse than any number.
    return [
        math.nan if any(map(math.isnan, of_seed)) else max(of_seed)
        for of_seed in zip(*of_strategies, strict=True)
    ]


def figures(evidence: Evidence) -> list[Figure]:
    """Final S_NC1 and test error, run by run."""
    figure, axes = new_figure(1, 2, width=8.2, height=3.0, sharey=True)
    panels = {"S_NC1 at the end": _s_nc1, "test error at the end, %": _errors}
    for ax, (title, numbers) in zip(axes, panels.items(), strict=True):
        for head, colour, shift in ((LEARNED, GREYS[0], -0.15), (FIXED, COLOURS[0], 0.15)):
            for row, strategy in enumerate(WEIGHTINGS):
                values = numbers(evidence[_name(strategy, head)])
                label = head if row == 0 else None
                ax.plot(values, [row + shift] * len(values), "o", color=colour, ms=4, label=label)
        ax.set(title=title, yticks=range(len(WEIGHTINGS)), yticklabels=list(WEIGHTINGS))
        ax.set_xlim(left=0)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return [Figure(svg_text(figure), "A point for every run.")]


def _s_nc1(records: Sequence[Record]) -> list[float]:
    return final(records, "s_nc1_ratio")


def _errors(records: Sequence[Record]) -> list[float]:
    return [100 * (1 - accuracy) for accuracy in last_accuracy(records)]


CLAIM = Claim(
    name="weighting",
    title="Task weighting strategies: all end in the same geometry",
    says=(
        "“Neural Collapse in Multi-Task Learning” minimises the sum of the tasks' losses. Where "
        "all can be driven to 0 together, strategies that weigh losses or gradients have "
        "nothing to trade in the end, so collapse should not depend on the strategy. Tested with "
        "equal weights, MGDA, uncertainty weighting, PCGrad, DWA, FAMO and FairGrad; "
        "aggregators (MGDA, PCGrad, FairGrad) see the backbone's parameters, which with a fixed "
        "head are all there are."
    ),
    plans={
        "reduced": Plan("multi-digits", BATCH_NORM, VARIANTS),
        "full": Plan("multi-mnist-10-10", BATCH_NORM, VARIANTS),
    },
    judge=judge,
    measures=("s_nc1_ratio", "s_nc2_norms", "s_nc2_angles", "s_nc3", "s_nc4", "s_nc5"),
    figures=figures,
)
