"""Heads that are fixed from the start, or from the middle of training on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recipes.claims.claim import (
    Claim,
    Criterion,
    Evidence,
    Plan,
    Record,
    Variant,
    accuracy_ahead,
)
from recipes.claims.single_source import REDUCED
from recipes.conversion.swap import swapped
from recipes.intervals import interval
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
    "learned-norm": Variant({"head": "learned-norm"}),
    "compound": Variant({"head": "compound"}),
    "compound-hadamard": Variant({"head": "compound-hadamard"}),
    "fixed midway": Variant({"head": "learned-norm"}, run=fixed_midway),
}
FIXED = ("compound", "compound-hadamard", "fixed midway")


def judge(evidence: Evidence) -> list[Criterion]:
    """No accuracy lost to the plain learned head, and no head parameters that are trained."""
    accuracy = [
        accuracy_ahead(
            evidence,
            (name, "learned"),
            "at least",
            -0.2,
            "within 0.2 points of the plain learned head or better, after as many epochs",
        )
        for name in FIXED
    ]
    return [
        *accuracy,
        Criterion(
            "optimiser state of compound, as a share of learned's",
            _state_shares(evidence),
            "at most",
            0.999,
            "less by more than rounding: the head's share of this small network",
        ),
    ]


def _state_shares(evidence: Evidence) -> list[float]:
    pairs = zip(evidence["compound"], evidence["learned"], strict=True)
    return [
        mine.counts.optimizer_state_bytes / theirs.counts.optimizer_state_bytes
        for mine, theirs in pairs
    ]


def lines(evidence: Evidence) -> list[Line]:
    """Costs of each variant."""
    records = evidence.values()
    first = [own[0].counts for own in records]
    return [
        ("seconds of training", *(f"{_seconds(own):.0f}" for own in records)),
        ("head parameters", *(f"{counts.head_parameters:,}" for counts in first)),
        ("optimiser state", *(bytes_in_words(counts.optimizer_state_bytes) for counts in first)),
        ("checkpoint", *(bytes_in_words(counts.checkpoint_bytes) for counts in first)),
    ]


def _seconds(records: Sequence[Record]) -> float:
    return interval([record.history[-1].train_seconds for record in records]).mean


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
