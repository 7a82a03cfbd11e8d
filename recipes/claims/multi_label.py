"""Neural collapse of label sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from recipes.claims.claim import BATCH_NORM, Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, differences, examined, fall, final
from recipes.data.images import ImageData
from recipes.pages.tables import Line
from recipes.training.measure import exact_sets
from recipes.training.network import Network, evaluate
from recipes.training.result import RunResult

CLASSES, WIDE = 10, 60

REDUCED = BATCH_NORM | {
    "data": "label-sets-digits",
    "loss": "pick-all-labels",
    "features": CLASSES,
    "augment": False,
    "epochs": 16,
    "measure_every": 16,
}
"""One or two digits of scikit-learn in an image, learned by heart behind batch normalisation."""

LEARNED, FIXED, IN_MORE = "learned", "fixed", f"fixed, d = {WIDE}"

VARIANTS = {
    LEARNED: Variant({"head": "learned-norm"}),
    FIXED: Variant({"head": "compound"}),
    IN_MORE: Variant({"head": "compound", "features": WIDE}),
}


@dataclass(frozen=True)
class Exact:
    """Share of test images whose labels are all found, given their number: of one, and of two."""

    one: float
    two: float


SIZES = {"one": "one label", "two": "two labels"}


def examine(network: Network, data: ImageData, result: RunResult) -> Exact:  # noqa: ARG001
    """The accuracy by the number of labels."""
    _, logits = evaluate(network, data.test)
    sets = data.test.labels
    right = exact_sets(logits[:, 0], sets).double()
    return Exact(*(float(right[sets.sum(1) == size].mean()) for size in (1, 2)))


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Sets collapse to the tag-wise average of an ETF; fixed heads lose nothing; why d = K."""
    tenth = "a tenth of what means of other sets have"
    for name in (LEARNED, FIXED):
        yield Criterion(f"{name}: NC_m of pairs", _nc_m(evidence, name), "at most", 0.1, tenth)
    learned = evidence[LEARNED]
    for title, values, most, why in (
        (
            "NC1 over label sets, as a share of its start",
            fall(learned, "nc1_ratio"),
            0.1,
            "an order of magnitude",
        ),
        (
            "angles of the class vectors",
            final(learned, "nc2_angles_weights"),
            0.06,
            "a fifth of the mean distance of random vectors, about one over the root of d = 10",
        ),
        (
            "squared distance of single-label means and class vectors",
            final(learned, "nc3"),
            0.1,
            "directions within 20 degrees",
        ),
    ):
        yield Criterion(f"{LEARNED}: {title}", values, "at most", most, why)
    for name, title in SIZES.items():
        exact = (examined(evidence[kind], Exact, name) for kind in (FIXED, LEARNED))
        yield Criterion(
            f"{title}: share of exact sets, fixed less learned, in points",
            [100 * ahead for ahead in differences(*exact)],
            "at least",
            -1.0,
            "twice what an accuracy near 98% of 850 images is known to (one standard error)",
        )
    yield Criterion(
        f"NC_m of pairs, d = {WIDE} less d = {CLASSES}, fixed",
        differences(_nc_m(evidence, IN_MORE), _nc_m(evidence, FIXED)),
        "at least",
        0.1,
        "ours: where no class vector is, the size of a set hides; so keep d = K",
    )


def _nc_m(evidence: Evidence, name: str) -> list[float]:
    return final(evidence[name], "nc_m/2")


def lines(evidence: Evidence) -> Iterator[Line]:
    """Exact sets by their size, and what pairs have of the average of their labels' means."""
    scales = (fmean(final(own, "tag_scale/2")) for own in evidence.values())
    for name, title in SIZES.items():
        yield (
            f"exact sets of {title}",
            *(f"{fmean(examined(own, Exact, name)):.1%}" for own in evidence.values()),
        )
    yield ("C_2, pairs over the average of their labels", *(f"{scale:.3g}" for scale in scales))


CLAIM = Claim(
    name="multi-label",
    title="Images with one label or two: collapse to tag-wise averages",
    says=(
        "“Neural collapse in multi-label learning with pick-all-label loss” (Li, Li, Wang and Qu, "
        "ICML 2024): trained with the cross-entropy of every label of an image, features of a "
        "label set collapse to one point, those of single labels to a simplex ETF, and the mean "
        "of a pair is a number times the average of its labels' means. So one fixed ETF is the "
        "head. Images of one digit or two different ones; NC_m is 0 where pairs point to that "
        "average, 1 where to any other. Accuracies are of whole sets, whose size is known."
    ),
    plans={
        "reduced": Plan("multi-digits", REDUCED, VARIANTS, seeds=(10, 11, 12)),
        "full": Plan("multi-digits", REDUCED | {"data": "label-sets-mnist"}, VARIANTS),
    },
    judge=judge,
    measures=("nc1_ratio", "nc2_angles_means", "nc2_angles_weights", "nc3", "nc_m/2"),
    examine=examine,
    lines=lines,
)
