"""Tuning of one block of a pretrained network, and collapse on the new task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from recipes.adaptation.runs import adapt
from recipes.adaptation.settings import ALL, HEAD, Adaptation, Pretraining, Schedule, of_config
from recipes.claims.claim import Claim, Criterion, Plan, Variant
from recipes.claims.record import Evidence, differences, final, last_accuracy, row
from recipes.intervals import rank_correlation
from recipes.pages.tables import Line, percent
from recipes.training.result import RunResult
from recipes.training.settings import RunConfig

BLOCKS = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1))
"""Of a ResNet-18."""

PROBE, FULL, SKIP = "probe", "all layers", ", skip"
RATES = (0.03, 0.1)
TUNING = Schedule(epochs=12, lr=RATES[0], weight_decay=5e-4, batch_size=100)


def tuned(config: RunConfig, *, part: str, skip: bool = False) -> RunResult:
    """A run of the claim; see :func:`recipes.adaptation.runs.adapt`."""
    shared = of_config(config)
    source = Pretraining(
        **shared,
        output=config.run_dir.with_name(f"pretraining-seed{config.seed}"),
        images="superclasses",
        backbone=config.backbone,
        width=config.width,
        features=config.features,
        schedule=Schedule(epochs=config.epochs, lr=0.1, weight_decay=5e-4, batch_size=100),
    )
    run = Adaptation(
        **shared,
        output=config.run_dir,
        source=source,
        part=part,
        skip=skip,
        schedule=TUNING,
        rates=RATES,
    )
    return adapt(run)


VARIANTS = {
    PROBE: Variant(run=partial(tuned, part=HEAD)),
    **{block: Variant(run=partial(tuned, part=f"backbone.{block}")) for block in BLOCKS},
    FULL: Variant(run=partial(tuned, part=ALL)),
    **{
        f"{block}{SKIP}": Variant(run=partial(tuned, part=f"backbone.{block}", skip=True))
        for block in BLOCKS
    },
}


def judge(evidence: Evidence) -> list[Criterion]:
    """Accuracy follows collapse on the new task; one block does as well as all of them."""
    best, skipped = (best_block(evidence, suffix) for suffix in ("", SKIP))
    others = {name: last_accuracy(evidence[name]) for name in (PROBE, FULL)}
    return [
        Criterion(
            "rank correlation of NC1 on the training images and test accuracy, over the probe and "
            "the eight blocks",
            correlations(evidence),
            "at most",
            -0.8,
            "the paper: the more the features collapse on the new task, the better the transfer",
        ),
        Criterion(
            "test accuracy of the best block less that of the probe, in points",
            _points(best, others[PROBE]),
            "at least",
            3.0,
            "the paper: one layer is much better than none; the block is chosen by images held out",
        ),
        Criterion(
            "test accuracy of the best block less that of all layers, in points",
            _points(best, others[FULL]),
            "at least",
            -2.0,
            "the paper: one layer is as good as all; expected to fail, by a run before",
        ),
        Criterion(
            "test accuracy of the best block with the skip connection less that without, in points",
            _points(skipped, best),
            "at least",
            -0.5,
            "the paper: it helps; level in a run before",
        ),
    ]


def correlations(evidence: Evidence) -> list[float]:
    """Rank correlation over ways of tuning, a number for each seed."""
    names = (PROBE, *BLOCKS)
    nc1 = zip(*(final(evidence[name], "nc1") for name in names), strict=True)
    accuracy = zip(*(last_accuracy(evidence[name]) for name in names), strict=True)
    return [rank_correlation(x, y) for x, y in zip(nc1, accuracy, strict=True)]


def best_block(evidence: Evidence, suffix: str = "") -> list[float]:
    """Test accuracy of the block that is most accurate on images held out, for each seed."""
    names = [f"{block}{suffix}" for block in BLOCKS]
    held_out = zip(*(final(evidence[name], "held_out") for name in names), strict=True)
    test = zip(*(last_accuracy(evidence[name]) for name in names), strict=True)
    return [own[chosen.index(max(chosen))] for chosen, own in zip(held_out, test, strict=True)]


def _points(mine: Sequence[float], others: Sequence[float]) -> list[float]:
    return [100 * ahead for ahead in differences(mine, others)]


def lines(evidence: Evidence) -> list[Line]:
    """Share of the backbone that is tuned, and NC1 and accuracy afterwards."""
    shares = (final(own, "tuned_share")[0] for own in evidence.values())
    return [
        ("share of the backbone", *(f"{share:.1%}" for share in shares)),
        row("NC1 on the training images", evidence, partial(final, measure="nc1")),
        row("accuracy held out", evidence, partial(final, measure="held_out"), percent),
    ]


CLAIM = Claim(
    name="layer-tuning",
    title="Fine-tuning of one block, and collapse on the new task",
    says=(
        "“Understanding and improving transfer learning of deep models via neural collapse” (Li "
        "et al., TMLR 2024): the more the features of a pretrained network collapse on the "
        "training data of a new task, the more accurate it is there, and tuning one layer is "
        "enough; a skip connection from it to the classifier (SCL) helps. The form of that "
        "connection is our reading (etf_heads.surgery.tune_layer). A ResNet-18 of an eighth of the "
        "usual width is pretrained on 50 classes of CIFAR-100 at 16 x 16 pixels, and tuned on 50 "
        "images of each of 20 others, from other superclasses; the rest stays frozen. The learning "
        "rate is the better of two on images held out, and so is the block."
    ),
    plans={
        "reduced": Plan(
            "cifar100",
            {"backbone": "resnet18", "width": 8, "features": 64, "epochs": 8},
            VARIANTS,
            seeds=(10, 11, 12),
        ),
        "full": Plan("cifar100", {"epochs": 100}, VARIANTS),
    },
    judge=judge,
    measures=(),
    lines=lines,
)
