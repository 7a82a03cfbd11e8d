import json
import math
from dataclasses import replace

import pytest
import torch
from recipe_results import finished_run

from etf_heads import CompoundETFHead
from etf_heads.losses import PickAllLabelsCrossEntropy
from recipes.comparison.answer import asked_about, cards, verdict
from recipes.comparison.figures import _error_axis
from recipes.comparison.head_cost import HeadCost, head_cost
from recipes.comparison.reach import Level, Reach
from recipes.comparison.report import reach_table, table, write_report
from recipes.comparison.summary import PLAIN, Comparison, compare
from recipes.comparison.tuning import Trial, Tuned
from recipes.intervals import Interval, interval
from recipes.pages.canvas import new_figure
from recipes.pages.tables import terminal_table
from recipes.records import from_json, to_json
from tests.html_page import Page

pytestmark = pytest.mark.recipes


@pytest.fixture
def summary():
    runs = [
        finished_run("learned", 0, [0.1, 0.90, 0.96]),
        finished_run("compound", 0, [0.1, 0.96, 0.97], learned=False),
        finished_run("learned", 1, [0.1, 0.92, 0.98]),
        finished_run("compound", 1, [0.1, 0.97, 0.975], learned=False),
    ]
    cost = HeadCost(median=1e-3, iqr=1e-5, n=10)
    return compare(runs, "learned", {"learned": cost, "compound": cost})


def test_interval_is_students():
    # n = 3: t(0.975, 2) = 4.302653, standard deviation 1, so 4.302653 / sqrt(3)
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert math.isclose(found.half, 2.4841377, rel_tol=1e-6)
    assert interval([5.0]) == Interval(5.0, None, 1)


def test_a_summary_is_what_is_read_from_its_file(summary, tuned):
    for written in (summary, tuned):
        assert from_json(Comparison, json.loads(json.dumps(to_json(written)))) == written


def test_differences_are_paired_by_seed(summary):
    difference = summary.heads["compound"].difference
    # +0.01 and -0.005; t(0.975, 1) = 12.706205, standard deviation 0.015 / sqrt(2)
    assert math.isclose(difference.mean, 0.0025)
    assert math.isclose(difference.half, 12.706205 * 0.0075, rel_tol=1e-6)
    assert summary.heads["learned"].difference.mean == 0


def test_time_to_the_baselines_accuracy_counts_runs_that_reach_it(summary):
    reach = summary.heads["compound"].to_target
    assert (reach.reached, reach.of) == (1, 2)  # seed 1 ends below 0.98
    assert (reach.epochs.mean, reach.seconds.mean) == (1, 2.0)
    assert summary.heads["learned"].to_target.epochs.mean == 2


def test_epochs_to_levels_that_a_head_reached_with_every_seed(summary):
    # Errors of learned: .90 .10 .04 and .90 .08 .02, of compound: .90 .04 .03 and .90 .03 .025;
    # of the ladder, 0.02 is reached by one seed only.
    reach = summary.reach
    assert [level.level for level in reach["test_error"]] == [0.5, 0.2, 0.1, 0.05]
    assert [level.level for level in reach["s_nc4"]] == [5, 2, 1, 0.5]
    epochs = {
        head: [level.heads[head].epochs.mean for level in reach["test_error"]]
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
    run.history[0].collapse["s_nc4"] = None
    other = finished_run("compound", 0, [0.1, 0.9, 0.95], learned=False)
    cost = HeadCost(1e-3, 0.0, 1)
    summary = compare([run, other], "learned", {"learned": cost, "compound": cost})
    assert summary.heads["learned"].curves["s_nc4"].mean == [None, 1 / 2, 1 / 3]
    assert json.dumps(to_json(summary), allow_nan=False)
    cells = {line[0]: line[1:] for line in table(summary)}
    assert cells["S_NC4, start → end"] == ("– → 0.33", "1 → 0.33")
    start = Interval(0.0, None, 1)
    later = summary.reach["s_nc4"][3].heads["learned"]
    assert summary.reach["s_nc4"][2] == Level(
        1.0, {"learned": later, "compound": Reach(1, 1, start, start)}
    )
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
    ("others", "answer"),
    [
        (
            [0.971, 0.991],
            "Yes: it ends +1.10 ± 0.00 points of test accuracy from it (n = 2,",
        ),
        ([0.96, 0.98], "Yes, for what it saves: it ends +0.00 ± 0.00"),
        ([0.957, 0.977], "(n = 2, paired by seed, 95% interval), behind, but by less than half a"),
        ([0.95, 0.97], "No: it ends -1.00 ± 0.00"),
        ([0.95, 0.98], "Not decided: it ends -0.50 ± 6.35"),
    ],
)
def test_the_answer_follows_from_the_interval(others, answer):
    runs = [finished_run("learned", seed, [a]) for seed, a in enumerate([0.96, 0.98])]
    runs += [finished_run("compound", s, [a], learned=False) for s, a in enumerate(others)]
    costs = {"learned": HeadCost(1e-3, 0.0, 1), "compound": HeadCost(9e-4, 0.0, 1)}
    found = verdict(compare(runs, "learned", costs))
    assert found.startswith("Should “compound” take the place of nn.Linear (“learned”)? ")
    assert answer in found
    assert "saves 100 parameters (9.1% of the model) and 0 B of optimiser state" in found
    assert found.endswith("head and loss take 0.90 times the time.")


def test_the_answer_says_how_many_seeds_would_decide():
    accuracies = [0.950, 0.956, 0.953]
    runs = [finished_run("learned", seed, [0.955]) for seed in range(3)]
    runs += [finished_run("compound", seed, [a]) for seed, a in enumerate(accuracies)]
    costs = {head: HeadCost(1e-3, 0.0, 1) for head in ("learned", "compound")}
    # -0.2 points, standard deviation 0.3: t(0.975, 6) 0.3 / sqrt(7) = 0.277 leaves -0.5 out
    assert "half a point behind, about 7 would." in verdict(compare(runs, "learned", costs))


def test_one_seed_decides_nothing():
    runs = [finished_run("learned", 0, [0.9]), finished_run("compound", 0, [0.99])]
    costs = {head: HeadCost(1e-3, 0.0, 1) for head in ("learned", "compound")}
    assert "Not decided: it ends +9.00 points" in verdict(compare(runs, "learned", costs))
    alone = compare(runs[:1], "learned", costs)
    assert "no fixed head" in verdict(alone)
    assert cards(alone) == []


def test_cards_have_one_baseline_and_a_subject(summary):
    compound = replace(summary.heads["compound"], cost=HeadCost(2e-3, 0.0, 1))
    summary = replace(summary, heads=summary.heads | {"compound": compound})
    for card in cards(summary):
        assert "compound" in card["label"]
        assert "learned" in card["label"]
    assert [card["value"] for card in cards(summary)] == [
        "+0.25 ± 9.53",
        "100 → 0",
        "2.00 times",
        "0.0% less",
    ]


@pytest.fixture
def tuned():
    """A tuned comparison: on the images held out "nearest" was the best, in the test "compound"."""
    accuracies = {"learned": 0.96, "compound": 0.99, "nearest": 0.97}
    runs = [finished_run(head, s, [0.1, a]) for head, a in accuracies.items() for s in range(2)]
    plain = [finished_run("learned", seed, [0.1, 0.94]) for seed in range(2)]
    best = {"learned": 0.9, "compound": 0.91, "nearest": 0.92}
    trials = {
        head: Tuned(
            (Trial({"lr": 0.01}, 0.8), Trial({"lr": 0.03}, None), Trial({"lr": 0.003}, accuracy)),
            {"lr": 0.003},
        )
        for head, accuracy in best.items()
    }
    costs = {head: HeadCost(1e-3, 0.0, 1) for head in (*accuracies, PLAIN)}
    return compare(runs, "learned", costs, plain=plain, tuned=trials)


def test_tuned_heads_stand_beside_the_plain_one(tuned):
    assert list(tuned.heads) == ["learned", "compound", "nearest", PLAIN]
    assert math.isclose(tuned.heads[PLAIN].difference.mean, -0.02)
    assert "lr" not in tuned.settings  # which the heads do not share
    cells = {line[0].strip(): line[1:] for line in table(tuned)}
    assert cells["accuracy of the best trial"] == ("90.00%", "91.00%", "92.00%", "–")
    assert cells["lr of it"] == ("0.003", "0.003", "0.003", "0.01")
    assert (
        json.loads(json.dumps(to_json(tuned)))["tuning"]["learned"]["trials"][1]["accuracy"] is None
    )


def test_the_answer_is_about_the_head_that_tuning_found_best(tuned):
    assert asked_about(tuned) == "nearest"
    assert "Should “nearest” take" in verdict(tuned)
    assert "Both were tuned alike." in verdict(tuned)
    assert asked_about(replace(tuned, tuning={})) == "compound"  # the first


def test_the_page_shows_what_tuning_tried(tuned, tmp_path):
    write_report(tuned, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "What tuning tried" in text
    assert "<td>diverged</td>" in text
    assert text.count("<td>chosen</td>") == 3


def test_errors_have_ticks_that_differ():
    for lowest, highest in ((0.002, 0.1), (0.0005, 0.01), (0.35, 0.5), (0.004, 0.012), (0.0, 0.0)):
        figure, (ax,) = new_figure(1, 1, width=8.2, height=3.3)
        ax.plot([0, 1], [highest, lowest])
        _error_axis(ax, [highest, lowest])
        figure.canvas.draw()
        shown = [t.get_text() for t in ax.get_yticklabels() if _is_in(ax, t)]
        assert len(set(shown)) == len(shown) >= 2, shown


def _is_in(ax, tick):
    low, high = ax.get_ylim()
    return tick.get_text() and low <= tick.get_position()[1] <= high


def test_report_is_one_file_with_everything_in_it(summary, tmp_path):
    path = tmp_path / "report.html"
    write_report(summary, path)
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("svg") == page.tags.count("title") - 1 == 5  # each says what it shows
    for number in range(page.tags.count("h2")):  # a list of contents
        assert text.count(f'href="#part{number}"') == text.count(f'id="part{number}"') == 1
    assert text.index("Should “compound”") < text.index("<svg") < text.index('class="card"')
    assert "prefers-color-scheme: dark" in text
    assert "#000000" not in text  # which would be invisible there
    assert page.is_self_contained()
    assert "&lt;b&gt;a machine&lt;/b&gt;" in text  # what comes from outside is escaped


def test_the_page_of_label_sets_speaks_of_their_measures(tmp_path):
    measures = dict.fromkeys(("nc1_ratio", "nc3", "nc_m/2"), 0.1)

    def of_sets(head):
        run = finished_run(head, 0, [0.1, 0.9], learned=head == "learned")
        return replace(run, history=[replace(row, collapse=measures) for row in run.history])

    cost = HeadCost(median=1e-3, iqr=1e-5, n=10)
    heads = ("learned", "compound")
    found = compare([of_sets(head) for head in heads], "learned", dict.fromkeys(heads, cost))
    write_report(found, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "NC_m, pairs" in text
    assert "whatever sets the labels come in" in text
    assert "S_NC" not in text


def test_the_cost_of_a_head_with_label_sets():
    loss = PickAllLabelsCrossEntropy(reduction="task")
    found = head_cost(CompoundETFHead(8, {"digit": 4}), loss, 16, 8, torch.device("cpu"))
    assert 0 < found.median < 1
