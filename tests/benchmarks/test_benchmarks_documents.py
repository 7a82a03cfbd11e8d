"""The numbers of the READMEs are those of the committed results."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.decision import ahead_table, markdown
from benchmarks.documents import CHANGED, NOT_RUN, PARTS, Part
from recipes.claims.claim import Criterion, Judged
from recipes.comparison.tuning import Trial
from tests.recipes.recipe_results import PROVENANCE, record

pytestmark = pytest.mark.recipes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.document}, {part.results[-60:]}")
def test_numbers_are_those_of_the_committed_result(part):
    # Whether the code has changed since is for those who write the documents, not for every change.
    current = part.current()
    expected = part.expected(stale=CHANGED in current)
    assert current == expected, "run: python -m benchmarks.documents"


def test_a_result_that_was_not_run_is_said_to_be_none():
    assert Part("recipes/results/none.json", "README.md", str).expected() == NOT_RUN


def test_criteria_of_ahead_are_a_line_each_regime():
    def records(accuracies, held_out):
        trials = (Trial({}, held_out),)
        return [record(seed, {"a": accuracy}, trials) for seed, accuracy in enumerate(accuracies)]

    evidence = {
        "a: learned, ntce": records((0.5, 0.6), 0.4),
        "a: learned, nonl": records((0.9, 0.9), 0.3),
        "a: fixed, ntce": records((0.53, 0.63), 0.4),
        "a: plain nn.Linear": records((0.4, 0.4), 0.0),
    }
    criterion = Criterion("it", [3.0, 3.0], "at least", -0.5, "why")
    judged = Judged("ahead", "reduced", evidence, [criterion], PROVENANCE)
    lines = ahead_table(judged).splitlines()
    assert lines[-1] == (
        "| a | 40.0% | 55.0% (ntce) | 58.0% (ntce) | +3.00 ± 0.00 | met | -32.00 ± 63.53 |"
    )


@pytest.mark.parametrize(
    ("result", "regime", "line"),
    [
        ("many-classes-tuned", "4,000 characters", "4,000 characters, six images"),
        ("many-classes-tuned", "100 classes in 64 dimensions", "CIFAR-100 at 16 x 16 pixels"),
        ("most-classes", "20,000 characters", "20,000 characters, four images"),
    ],
)
def test_class_means_less_linear_are_what_the_readme_says(result, regime, line):
    def accuracies(head):
        runs = evidence[f"{regime}: {head}"]
        return [run["history"][-1]["test"]["accuracy"].popitem()[1] for run in runs]

    evidence = json.loads((ROOT / f"recipes/results/claims/{result}.json").read_text())["evidence"]
    means = accuracies("class means in bfloat16 rows, NONL")
    linear = accuracies("nn.Linear")
    (row,) = (r for r in (ROOT / "README.md").read_text().splitlines() if f"| {line}" in r)
    assert f"| {100 * fmean(linear):.1f}% |" in row
    assert f"| {100 * (fmean(means) - fmean(linear)):+.2f} ± " in row


def test_cells_of_markdown_tables_keep_their_bars():
    assert markdown([("a",), ("|b|",)]) == "| a |\n| --- |\n| \\|b\\| |"
