"""Label smoothing, focal loss and squared error beside cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from etf_heads.theory import CrossEntropy, batch_norm_scale
from recipes.claims.claim import BATCH_NORM, Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, examined, fall, last_accuracy
from recipes.claims.single_source import collapse
from recipes.data.images import ImageData
from recipes.pages.tables import Line
from recipes.training.network import Network, evaluate
from recipes.training.result import RunResult

FEATURES, CLASSES, TASKS = 60, 10, 2
SMOOTHING, GAMMA, TARGET = 0.1, 3.0, 5.0

REDUCED = BATCH_NORM | {"features": FEATURES, "epochs": 16, "augment": False, "measure_every": 16}
"""Two-digit images, learned by heart behind batch normalisation."""

LOSSES = {
    "cross-entropy": {},
    "label smoothing": {"loss": "label-smoothing", "loss_parameter": SMOOTHING},
    "focal": {"loss": "focal", "loss_parameter": GAMMA},
    "squared error": {"loss": "squared-error", "loss_parameter": TARGET},
}

GAPS = {
    "label smoothing": CrossEntropy(label_smoothing=SMOOTHING).gap(CLASSES, price=0),
    "squared error": TARGET,
}
"""Right logit less the mean of the others where the loss is least, without regularisation."""

CLOSE = {"label smoothing": 0.15, "squared error": 0.2}

KINDS = ("learned-norm", "compound")

VARIANTS = {
    **{
        f"{head}, {loss}": Variant({"head": head, **settings})
        for head in KINDS
        for loss, settings in LOSSES.items()
    },
    **{
        f"compound, {loss}, matched scale": Variant(
            {
                "head": "compound",
                **LOSSES[loss],
                "scale": batch_norm_scale(CLASSES, gap, FEATURES, TASKS),
            }
        )
        for loss, gap in GAPS.items()
    },
}


@dataclass(frozen=True)
class Gap:
    """Mean over training images and tasks of the right logit less the mean of the others."""

    gap: float


def examine(network: Network, data: ImageData, result: RunResult) -> Gap:  # noqa: ARG001
    """The logit gap of the training images."""
    _, logits = evaluate(network, data.train)  # (N, T, K)
    right = logits.gather(2, data.train.labels[..., None])[..., 0]
    others = (logits.sum(2) - right) / (logits.shape[2] - 1)
    return Gap(float((right - others).double().mean()))


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """Learned heads collapse under every loss, to its own gap; accuracies are alike."""
    for loss in LOSSES:
        for criterion in collapse(evidence[f"learned-norm, {loss}"]).values():
            yield replace(criterion, statement=f"{loss}: {criterion.statement}")
    for head in KINDS:
        by_loss = [last_accuracy(evidence[f"{head}, {loss}"]) for loss in LOSSES]
        yield Criterion(
            f"{head}: test accuracy of the best loss less that of the worst, in points",
            [100 * (max(seed) - min(seed)) for seed in zip(*by_loss, strict=True)],
            "at most",
            1.0,
            "test accuracies near 99% of about 800 images are known to 0.7 points (95%)",
        )
    for head in KINDS:
        for loss, gap in GAPS.items():
            yield Criterion(
                f"{head}, {loss}: distance of the logit gap from {gap:.4g}",
                [abs(own - gap) for own in examined(evidence[f"{head}, {loss}"], Gap, "gap")],
                "at most",
                CLOSE[loss],
                "a twentieth of the gap, rounded: regularisation takes some of it",
            )
    for loss in GAPS:
        name = f"compound, {loss}, matched scale"
        yield Criterion(
            f"{name}: S_NC4, as a share of its start",
            fall(evidence[name], "s_nc4"),
            "at most",
            0.25,
            "as for learned heads; behind batch normalisation the length of the class vectors "
            "decides the gap, and a surplus stays outside the frame",
        )


def lines(evidence: Evidence) -> list[Line]:
    """The mean logit gap of each variant."""
    means = (fmean(examined(own, Gap, "gap")) for own in evidence.values())
    return [("logit gap", *(f"{mean:.3g}" if math.isfinite(mean) else "-" for mean in means))]


CLAIM = Claim(
    name="losses",
    title="All losses collapse, each to its own gap",
    says=(
        "“Are all losses created equal: a neural collapse perspective” (Zhou et al., NeurIPS "
        "2022): networks trained with cross-entropy, label smoothing, focal loss or squared error "
        "end in the same geometry, with accuracies alike. That several tasks do, and the gaps in "
        "the logits, are our own derivation (etf_heads.theory): label smoothing and squared error "
        "have finite gaps, which a fixed head behind batch normalisation meets at one scale of "
        "its class vectors only (batch_norm_scale)."
    ),
    plans={
        "reduced": Plan("multi-digits", REDUCED, VARIANTS, seeds=(10, 11, 12)),
        "full": Plan("multi-mnist-10-10", BATCH_NORM | {"features": FEATURES}, VARIANTS),
    },
    judge=judge,
    measures=("s_nc1_ratio", "s_nc2_norms", "s_nc2_angles", "s_nc3", "s_nc4", "s_nc5"),
    examine=examine,
    lines=lines,
)
