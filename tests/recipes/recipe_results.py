"""Made-up results of runs."""

from recipes.claims.record import Record
from recipes.provenance import Provenance
from recipes.training.history import Epoch, Scores
from recipes.training.presets import PRESETS
from recipes.training.result import Counts, RunResult

MEASURES = ("s_nc1_ratio", "s_nc2_norms", "s_nc2_angles", "s_nc3", "s_nc4", "s_nc5")

PROVENANCE = Provenance(
    commit="c" * 40,
    date="2026-01-01T00:00:00+00:00",
    device="<b>a machine</b>",
    processes=1,
    cpu_threads=2,
    mixed_precision="no",
    python="3.11",
    platform="Linux",
    packages={"torch": "2.13.0"},
)


def scores(**accuracy):
    """Of four images."""
    return Scores(samples=4, loss=0.1, accuracy=accuracy)


def finished_run(head, seed, accuracies, learned=True):
    """A run whose mean test accuracy at each epoch is given."""
    return RunResult(
        config=PRESETS["multi-digits"][1].to_json() | {"head": head, "seed": seed},
        history=[
            Epoch(
                epoch=epoch,
                train_seconds=2.0 * epoch,
                train=scores(left=1.0, right=1.0),
                test=scores(left=accuracy + 0.01, right=accuracy - 0.01),
                collapse=dict.fromkeys(MEASURES, 1 / (epoch + 1)),
            )
            for epoch, accuracy in enumerate(accuracies)
        ],
        tasks={"left": 10, "right": 10},
        gram=[[1.0, 0.0] * 10, [0.0, 1.0] * 10] * 10,
        counts=Counts(
            head_parameters=100 if learned else 0,
            model_parameters=1100 if learned else 1000,
            checkpoint_bytes=4400,
            optimizer_state_bytes=8800,
        ),
        provenance=PROVENANCE,
    )


def record(seed, accuracy, tuned=()):
    """What a claim keeps of a run whose accuracy by task, in the end, is given."""
    return Record(
        seed=seed,
        history=[Epoch(0, 0.0, scores(**accuracy), scores(**accuracy), {})],
        tasks=dict.fromkeys(accuracy, 10),
        gram=None,
        counts=Counts(0, 1000, 4400, 8800),
        settings={},
        tuned=tuned,
    )
