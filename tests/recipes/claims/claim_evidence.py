"""Records of runs for which each claim holds."""

import re
from dataclasses import replace

from perceptron_evidence import RUNS as PERCEPTRONS
from recipe_results import scores
from transfer_evidence import OF_TRANSFER

from recipes.claims.alignment import VARIANTS as ALIGNMENT
from recipes.claims.dissection import Dissection, Dissections
from recipes.claims.long_tail import VARIANTS as LONG_TAIL
from recipes.claims.loss_or_head import HEADS as LOSS_OR_HEAD
from recipes.claims.many_classes_tuned import CLAIM as MANY_CLASSES_TUNED
from recipes.claims.record import Record
from recipes.claims.saliency import Saliency
from recipes.claims.vocabulary import HEADS as VOCABULARY
from recipes.records import to_json
from recipes.training.history import Epoch
from recipes.training.result import Counts

COLLAPSED = {
    "s_nc1_ratio": (2.0, 0.1),
    "s_nc2_angles": (0.1, 0.01),
    "s_nc2_norms": (0.1, 0.01),
    "s_nc3": (0.1, 0.01),
    "s_nc4": (1.4, 0.1),
    "s_nc5": (0.9, 0.0),
    "m_nc1_ratio": (2.0, 0.1),
    "m_nc2_norms_means": (0.3, 0.1),
    "m_nc2_norms_weights": (0.3, 0.1),
    "m_nc2_angles_means": (0.3, 0.05),
    "m_nc2_angles_weights": (0.3, 0.05),
    "m_nc3": (2.0, 0.1),
    "m_nc4": (0.9, 0.0),
}

UNADJUSTED = [name for name in LONG_TAIL if name.endswith("cross-entropy")]
UNTURNED = [name for name in ALIGNMENT if not name.endswith("turned")]
ALIGNED, TURNED_AWAY = {"exponent": 0.2, "cosine": 0.99}, {"exponent": 0.16, "cosine": 0.9}

MANY_TUNED = MANY_CLASSES_TUNED.plans["reduced"].variants

BEHIND = {
    "Kerdock": 0.2,
    "Kerdock, chosen": 0.5,
    "Kerdock, d = 256": 0.5,
    **{f"100 classes of images: {head}": 0.5 for head in LOSS_OR_HEAD if head != "nn.Linear"},
    **{name: 0.5 for name in MANY_TUNED if re.search(r"dimensions: (?!nn\.Linear)", name)},
    "4,000 characters: nn.Linear": 0.985,
    "20,000 characters: nn.Linear": 0.9,
}
"""Accuracies of variants that claims on many classes say to be behind."""

BENT = [[1.0, -0.5, 0.5, -0.5], [-0.5, 1.0, 0.5, 0.5], [0.5, 0.5, 1.0, -0.5], [-0.5, 0.5, -0.5, 1]]
NEARLY_BENT = [[0.9 * value for value in row] for row in BENT]
"""Cosines of two binary tasks, whose ETFs have -1 and 0."""


def record(collapse, accuracy=0.99, state_bytes=90, extra=None):
    """A run of two epochs; a measure has its start and its end."""
    ends = [{name: pair[i] for name, pair in collapse.items()} for i in (0, 1)]
    own = replace(scores(a=accuracy, b=accuracy), loss=1.0)
    return Record(
        seed=0,
        history=[Epoch(i, float(i), own, own, end) for i, end in enumerate(ends)],
        tasks={"a": 2, "b": 2},
        gram=NEARLY_BENT,
        counts=Counts(0, 5, 5, state_bytes),
        settings={"seed": 0},
        extra=extra,
    )


def supporting(claim):
    """Evidence for which a claim holds."""
    plan = claim.plans["reduced"]
    if claim.name in MADE:
        return {name: [MADE[claim.name](name)] for name in plan.variants}
    return {
        name: [
            record(
                COLLAPSED,
                accuracy=BEHIND.get(name, 0.96 if name in (*UNADJUSTED, *UNTURNED) else 0.99),
                state_bytes=100 if name.startswith("learned") else 90,
                extra=found(claim.name, name),
            )
        ]
        for name in plan.variants
    }


def found(claim, variant):
    """What the claim's own examination finds, as JSON values."""
    if claim == "dissection":
        parts = Dissection([0.99, 0.95], [0.02, 0.03], [0.01, 0.02], [[[1.0]], [[1.0]]], 0.97)
        return to_json(Dissections(parts, parts))
    if claim == "saliency":
        return to_json(Saliency(0.3 + 0.2 * float(variant.rpartition(" ")[2]), 0, [], [], []))
    gap = 5.0 if "squared" in variant else 4.51
    return {
        "correlation": sweep(variant),
        "imbalance": {"predicted": BENT},
        "losses": {"gap": gap},
        "alignment": ALIGNED if variant.endswith("turned") else TURNED_AWAY,
        "long-tail": {"many": 0.9, "medium": 0.8, "few": None},
    }.get(claim)


def in_sessions(variant):
    """A run that forgets as the claim says."""
    place, _, head = variant.partition(": ")
    few = place in ("digits 0.5%", "digits 2.0%")
    measures = {
        "shallow": 0.5,
        "deep": 0.4 if variant == "digits 0.0%: learned" else 0.02,
        "inflation": 1.5 if few else 1.0,
        "effective_rank_ratio": 0.3 if few else 1.0,
        "old_mean_share": 0.3,
    }
    pairs = {name: (None, value) for name, value in measures.items()}
    return record(pairs, accuracy=0.84 if head == "etf" else 0.8)


def in_layers(variant):
    """A network whose fuzziness falls by a constant factor, or does not fall."""
    control = "no " in variant
    seen = [10.0, 9.0, 11.0, 10.0] if control else [10 * 0.1**layer for layer in range(4)]
    unseen = [3.0, 2.0, 4.0, 6.0] if "digits" in variant else []
    return record({}, extra={"seen": seen, "unseen": unseen})


def with_centres(variant):
    """A run of a head with centres, or beside it."""
    accuracies = {"cross-entropy": 0.85, "logit adjustment": 0.88, "one centre": 0.81}
    shots = {"many": 0.9, "medium": 0.8, "few": None}
    return record(COLLAPSED, accuracies.get(variant, 0.88), extra=shots)


def at_random(variant):
    """A network that collapses whatever the labels, if it is wide, and long trained."""
    width = int(variant.split()[2].rstrip(",")) if "units" in variant else 64
    end = {"m_nc1": (9.0, 16 / width * (2 if " 30 epochs" in variant else 1) / 4)}
    return record(COLLAPSED | end, 1.0 if "random" in variant else 0.97)


def of_label_sets(variant):
    """A run that ends with collapsed label sets, but in more dimensions than classes."""
    measures = ("nc2_angles_means", "nc2_angles_weights", "nc3")
    ends = dict.fromkeys(measures, (0.3, 0.01)) | {
        "nc1_ratio": (3.0, 0.1),
        "nc_m/2": (1.0, 0.5 if "60" in variant else 0.03),
        "tag_scale/2": (1.0, 1.8),
    }
    return record(ends, extra={"one": 0.98, "two": 0.97})


def of_words(variant):
    """A language model of the test loss that the claim expects."""
    own = record({"head_bytes": (0.0, 1e3), "cpu_seconds": (0.0, 9.0)})
    loss = dict(zip(VOCABULARY, (3.6, 3.4, 3.4, 4.8, 3.8, 3.7, 3.8), strict=True))[variant]
    own.history[-1] = replace(own.history[-1], test=replace(scores(word=0.4), loss=loss))
    return own


def recorded(made):
    """A function that makes a record of what another one says of a variant."""
    return lambda variant: record(**made(variant))


MADE = {
    "replay": in_sessions,
    "separation": in_layers,
    "multi-centre": with_centres,
    "random-labels": at_random,
    "multi-label": of_label_sets,
    "vocabulary": of_words,
    **PERCEPTRONS,
    **{name: recorded(made) for name, made in OF_TRANSFER.items()},
}
"""Runs that support a claim, by its name and that of a variant."""


def sweep(variant):
    """What a network that follows Theorem 5.1 in the limit says."""
    share = float(variant.partition("=")[2] or 0.5)
    cosine = (share**0.5 - (1 - share) ** 0.5) / (share**0.5 + (1 - share) ** 0.5)
    return {"share": share, "head": "learned-norm", "seed": 0, "cosine": cosine} | {
        "equal": 0.9,
        "different": 0.8,
        "effective": None,
    }


def end_at(record, accuracy):
    """Another test accuracy at the end of a run."""
    record.history[-1] = replace(record.history[-1], test=scores(a=accuracy, b=accuracy))


def criteria_of(claim, evidence):
    """The criteria on evidence of two seeds without a spread."""
    return list(claim.judge({name: records * 2 for name, records in evidence.items()}))
