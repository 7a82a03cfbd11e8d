import json
import math

import pytest

from recipes.comparison.report import reach_table, table, verdict, write_report
from recipes.comparison.summary import compare, interval
from recipes.pages.tables import terminal_table
from recipes.training.result import RunResult
from recipes.training.settings import PRESETS
from tests.html_page import Page

pytestmark = pytest.mark.recipes

MEASURES = ("s_nc1_ratio", "s_nc2_norms", "s_nc2_angles", "s_nc3", "s_nc4", "s_nc5")


def finished_run(head, seed, accuracies, learned=True):
    """A run whose mean test accuracy at each epoch is given."""
    config = PRESETS["multi-digits"][1].to_json() | {"head": head, "seed": seed}
    history = [
        {
            "epoch": epoch,
            "train_seconds": 2.0 * epoch,
            "train": {"samples": 4, "loss": 0.1, "accuracy": {"left": 1.0, "right": 1.0}},
            "test": {"samples": 4, "loss": 0.1, "accuracy": {"left": a + 0.01, "right": a - 0.01}},
            "collapse": dict.fromkeys(MEASURES, 1 / (epoch + 1)),
        }
        for epoch, a in enumerate(accuracies)
    ]
    counts = {
        "head_parameters": 100 if learned else 0,
        "model_parameters": 1100 if learned else 1000,
        "checkpoint_bytes": 4400,
        "optimizer_state_bytes": 8800,
    }
    provenance = {
        "commit": "c" * 40,
        "date": "2026-01-01T00:00:00+00:00",
        "device": "<b>a machine</b>",
        "processes": 1,
        "cpu_threads": 2,
        "mixed_precision": "no",
        "python": "3.11",
        "packages": {"torch": "2.13.0"},
    }
    gram = [[1.0, 0.0], [0.0, 1.0]]
    return RunResult(config, history, {"left": 10, "right": 10}, gram, counts, provenance)


@pytest.fixture
def summary():
    runs = [
        finished_run("learned", 0, [0.1, 0.90, 0.96]),
        finished_run("compound", 0, [0.1, 0.96, 0.97], learned=False),
        finished_run("learned", 1, [0.1, 0.92, 0.98]),
        finished_run("compound", 1, [0.1, 0.97, 0.975], learned=False),
    ]
    cost = {"median": 1e-3, "iqr": 1e-5, "n": 10}
    return compare(runs, "learned", {"learned": cost, "compound": cost})


def test_interval_is_students():
    # n = 3: t(0.975, 2) = 4.302653, standard deviation 1, so 4.302653 / sqrt(3)
    found = interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert math.isclose(found["half"], 2.4841377, rel_tol=1e-6)
    assert interval([5.0]) == {"mean": 5.0, "half": None, "n": 1}


def test_differences_are_paired_by_seed(summary):
    difference = summary["heads"]["compound"]["difference"]
    # +0.01 and -0.005; t(0.975, 1) = 12.706205, standard deviation 0.015 / sqrt(2)
    assert math.isclose(difference["mean"], 0.0025)
    assert math.isclose(difference["half"], 12.706205 * 0.0075, rel_tol=1e-6)
    assert summary["heads"]["learned"]["difference"]["mean"] == 0


def test_time_to_the_baselines_accuracy_counts_runs_that_reach_it(summary):
    reach = summary["heads"]["compound"]["to_target"]
    assert (reach["reached"], reach["of"]) == (1, 2)  # seed 1 ends below 0.98
    assert (reach["epochs"]["mean"], reach["seconds"]["mean"]) == (1, 2.0)
    assert summary["heads"]["learned"]["to_target"]["epochs"]["mean"] == 2


def test_epochs_to_levels_that_a_head_reached_with_every_seed(summary):
    # Errors of learned: .90 .10 .04 and .90 .08 .02, of compound: .90 .04 .03 and .90 .03 .025;
    # of the ladder, 0.02 is reached by one seed only.
    reach = summary["reach"]
    assert [level["level"] for level in reach["test_error"]] == [0.5, 0.2, 0.1, 0.05]
    assert [level["level"] for level in reach["s_nc4"]] == [5, 2, 1, 0.5]
    epochs = {
        head: [level["heads"][head]["epochs"]["mean"] for level in reach["test_error"]]
        for head in ("learned", "compound")
    }
    assert epochs == {"learned": [1, 1, 1, 2], "compound": [1, 1, 1, 1]}


def test_levels_that_not_all_seeds_reach_are_marked():
    runs = [finished_run("learned", seed, [0.1, a]) for seed, a in enumerate([0.9, 0.99])]
    runs += [finished_run("compound", seed, [0.1, 0.99]) for seed in range(2)]
    runs += [finished_run("nearest", seed, [0.1, 0.2]) for seed in range(2)]
    lines = reach_table(compare(runs, "learned", dict.fromkeys(("learned", "compound", "nearest"))))
    assert lines[0] == ("epochs until", "learned", "compound", "nearest")
    assert ("test accuracy of at least", "", "", "") in lines
    assert ("  99%", "1.0 (1 of 2)", "1.0", "not reached") in lines


def test_a_measure_that_is_not_defined_before_training(tmp_path):
    run = finished_run("learned", 0, [0.1, 0.9, 0.95])
    run.history[0]["collapse"]["s_nc4"] = None
    other = finished_run("compound", 0, [0.1, 0.9, 0.95], learned=False)
    cost = {"median": 1e-3}
    summary = compare([run, other], "learned", {"learned": cost, "compound": cost})
    assert summary["heads"]["learned"]["curves"]["s_nc4"]["mean"] == [None, 1 / 2, 1 / 3]
    assert json.dumps(summary, allow_nan=False)
    cells = {line[0]: line[1:] for line in table(summary)}
    assert cells["S_NC4, start → end"] == ("– → 0.33", "1 → 0.33")
    assert summary["reach"]["s_nc4"][2] == {  # 1, which compound has from the start
        "level": 1.0,
        "heads": {
            "learned": summary["reach"]["s_nc4"][3]["heads"]["learned"],
            "compound": {
                "reached": 1,
                "of": 1,
                "epochs": {"mean": 0.0, "half": None, "n": 1},
                "seconds": {"mean": 0.0, "half": None, "n": 1},
            },
        },
    }
    write_report(summary, tmp_path / "report.html")
    assert "nan" not in (tmp_path / "report.html").read_text().lower()


def test_table_has_a_column_a_head(summary):
    lines = table(summary)
    assert lines[0] == ("", "learned", "compound")
    cells = {line[0].strip(): line[1:] for line in lines}
    assert cells["of left"] == ("98.00% ± 12.71", "98.25% ± 3.18")
    assert cells["epochs to learned's accuracy"] == ("2.0", "1.0 (1 of 2)")
    assert cells["head parameters"] == ("100", "0")
    assert cells["S_NC1, start → end"] == ("1 → 0.33", "1 → 0.33")
    text = terminal_table(lines).splitlines()
    assert len(text) == len(lines) + 1
    assert len({len(line) for line in text}) == 1


@pytest.mark.parametrize(
    ("others", "sense"),
    [
        ([0.96, 0.98], "no difference that the seeds can tell"),
        ([0.97, 0.99], "better beyond the spread of the seeds"),
        ([0.95, 0.97], "worse beyond the spread of the seeds"),
    ],
)
def test_verdict_follows_from_the_numbers(others, sense):
    runs = [finished_run("learned", seed, [a]) for seed, a in enumerate([0.96, 0.98])]
    runs += [finished_run("compound", seed, [a]) for seed, a in enumerate(others)]
    costs = {head: {"median": 1e-3} for head in ("learned", "compound")}
    assert sense in verdict(compare(runs, "learned", costs))


def test_report_is_one_file_with_everything_in_it(summary, tmp_path):
    path = tmp_path / "report.html"
    write_report(summary, path)
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("svg") == 4
    assert page.is_self_contained()
    assert "&lt;b&gt;a machine&lt;/b&gt;" in text  # what comes from outside is escaped
