"""Heads that are fixed from the start, or from the middle of training on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

from recipes.claims.claim import BATCH_NORM, Claim, Criterion, Plan, Variant, accuracy_ahead
from recipes.claims.record import Evidence, quotients
from recipes.claims.single_source import REDUCED
from recipes.conversion.swap import swapped
from recipes.pages.tables import Line, bytes_in_words
from recipes.training.engine import train
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig


def fixed_midway(config: RunConfig) -> RunResult:
    """Half of the epochs with a learned head, the rest with the fixed one nearest to it.

    Each half has a learning rate that rises and falls; the result is that of the second half.
    """
    first = config.epochs // 2
    learned = replace(config, epochs=first, output=config.run_dir / "learned")
    train(learned)
    fixed = replace(config, epochs=config.epochs - first, output=config.run_dir / "fixed")
    return train(fixed, make_network=swapped(learned, "from_linear"))


VARIANTS = {
    "learned": Variant({"head": "learned"}),
    "learned-norm": Variant({"head": "learned-norm"} | BATCH_NORM),
    "compound": Variant({"head": "compound"}),
    "compound-hadamard": Variant({"head": "compound-hadamard"}),
    "fixed midway": Variant({"head": "learned-norm"} | BATCH_NORM, run=fixed_midway),
}
FIXED = ("compound", "compound-hadamard", "fixed midway")


def judge(evidence: Evidence) -> Iterator[Criterion]:
    """No accuracy lost to the plain learned head, and no head parameters that are trained."""
    why = "within 0.2 points of the plain learned head or better, after as many epochs"
    compound, learned = (
        [record.counts.optimizer_state_bytes for record in evidence[name]]
        for name in ("compound", "learned")
    )
    for name in FIXED:
        yield accuracy_ahead(evidence, (name, "learned"), "at least", -0.2, why)
    yield Criterion(
        "optimiser state of compound, as a share of learned's",
        quotients(compound, learned),
        "at most",
        0.999,
        "less by more than rounding: the head's share of this small network",
    )


def lines(evidence: Evidence) -> Iterator[Line]:
    """Costs of each variant."""
    seconds = ([record.history[-1].train_seconds for record in own] for own in evidence.values())
    first = [own[0].counts for own in evidence.values()]
    yield ("seconds of training", *(f"{fmean(own):.0f}" for own in seconds))
    yield ("head parameters", *(f"{counts.head_parameters:,}" for counts in first))
    yield ("optimiser state", *(bytes_in_words(counts.optimizer_state_bytes) for counts in first))
    yield ("checkpoint", *(bytes_in_words(counts.checkpoint_bytes) for counts in first))


CLAIM = Claim(
    name="parameter-efficient",
    title="Parameter-efficient training: heads that are fixed",
    says=(
        "“Neural Collapse in Multi-Task Learning”: since the geometry that heads end in is known, "
        "they can be fixed to it, from the start or in the middle of training, which saves their "
        "parameters, gradients and optimiser state and costs no accuracy. Fixed midway, the head "
        "is the compound ETF nearest to the learned one, with a bias that stays learned; seconds "
        "and counts are those of its second half."
    ),
    plans={
        "reduced": Plan("multi-mnist-10-10", REDUCED, VARIANTS),
        "full": Plan("multi-mnist-10-10", {}, VARIANTS),
    },
    judge=judge,
    measures=("s_nc1_ratio", "s_nc2_angles", "s_nc3", "s_nc4"),
    lines=lines,
)
