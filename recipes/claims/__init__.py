"""Claims of papers, and of ours, each tested by one command.

A claim is a file here: a :class:`~recipes.claims.claim.Claim` called ``CLAIM``, with what is said,
the runs that test it at two sizes, and a rule that judges their numbers. ``CLAIMS`` lists them;
``recipes/paper.py`` runs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.claims.claim import Claim

CLAIMS = (
    "single-source",
    "multi-source",
    "weighting",
    "dissection",
    "imbalance",
    "correlation",
    "saliency",
    "parameter-efficient",
    "defaults",
    "ahead",
    "losses",
    "temperature",
    "long-tail",
    "alignment",
    "replay",
    "many-classes",
    "loss-or-head",
    "many-classes-tuned",
    "vocabulary",
    "most-classes",
    "long-training",
    "separation",
    "multi-centre",
    "random-labels",
    "multi-label",
    "low-rank",
    "regression",
    "geometric-complexity",
    "class-means",
    "layer-tuning",
    "transfer",
    "variance",
)
"""Names of all claims; their files are called the same."""


def find_claim(name: str) -> Claim:
    """The claim of a name in ``CLAIMS``."""
    return import_module(f"{__name__}.{name.replace('-', '_')}").CLAIM
