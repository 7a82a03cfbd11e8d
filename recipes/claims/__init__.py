"""Claims of "Neural Collapse in Multi-Task Learning", and one of ours, each tested by one command.

A claim is a file here: a :class:`~recipes.claims.claim.Claim` called ``CLAIM``, with what is said,
the runs that test it at two sizes, and a rule that judges their numbers. ``CLAIMS`` lists them;
``recipes/paper.py`` runs them.
"""

from __future__ import annotations

from recipes.claims import (
    correlation,
    defaults,
    dissection,
    imbalance,
    multi_source,
    parameter_efficient,
    saliency,
    single_source,
    weighting,
)
from recipes.claims.claim import Claim

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        single_source.CLAIM,
        multi_source.CLAIM,
        weighting.CLAIM,
        dissection.CLAIM,
        imbalance.CLAIM,
        correlation.CLAIM,
        saliency.CLAIM,
        parameter_efficient.CLAIM,
        defaults.CLAIM,
    )
}
"""All claims by name."""
