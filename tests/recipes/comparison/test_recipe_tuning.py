"""Every head gets the same trials over the same grid, judged by images that are no test images."""

import json
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from recipe_checks import scans_of
from recipe_results import scores
from recipe_runs import TINY

from recipes.claims import CLAIMS, find_claim
from recipes.compare import main
from recipes.comparison.summary import PLAIN
from recipes.comparison.tuning import HELD_OUT, choice_in_words, grid, tune
from recipes.data import DataOptions, load_data
from recipes.storage import read_json
from recipes.training import engine
from recipes.training.presets import PRESETS
from recipes.training.settings import TRIAL_SEED, CompareConfig

pytestmark = pytest.mark.recipes
START = {"head_decay": 2.0, "weight_decay": 1.0, "lr": 0.01}


class Trainer:
    """In place of training: the accuracy is a function of the settings."""

    def __init__(self, accuracy, stop=None):
        self.accuracy, self.stop, self.seen = accuracy, stop, []

    def __call__(self, config):
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append(config)
        found = self.accuracy(config)
        if found is None:
            raise FloatingPointError
        return SimpleNamespace(history=[SimpleNamespace(test=scores(a=found, b=found))])


def separable(config):
    """Best at head_decay 20, weight_decay 3 and a third of the learning rate."""
    return (
        0.5
        + 0.1 * (config.head_decay == 20.0)
        + 0.1 * (config.weight_decay == 3.0)
        + 0.1 * (config.lr < 0.005)
        - 0.1 * (config.lr > 0.02)
    )


@pytest.fixture
def config(tmp_path):
    start = replace(PRESETS["multi-digits"][1], head="compound", output=tmp_path / "search")
    return replace(start, seed=TRIAL_SEED)


def chosen(config, trainer, trials=7):
    return tune(config, trials, trainer)


def test_a_coordinate_search_finds_the_best_of_separable_settings(config):
    trainer = Trainer(separable)
    found = chosen(config, trainer)
    assert found.settings == {
        "head_decay": 20.0,
        "weight_decay": 3.0,
        "lr": pytest.approx(0.01 / 3),
    }
    assert found.accuracy == pytest.approx(0.8)
    assert found.trials[0].settings == START  # as given
    assert len(trainer.seen) == len(found.trials) == 7  # 1 + 2 + 2 + 2: once through the grid
    assert [t.settings for t in found.trials] == [
        {name: getattr(c, name) for name in START} for c in trainer.seen
    ]


def test_one_setting_differs_from_the_best_so_far_in_every_trial(config):
    trials = chosen(config, Trainer(separable), trials=9).trials
    for k, trial in enumerate(trials[1:], start=1):
        best = max(trials[:k], key=lambda t: t.accuracy).settings
        assert sum(best[name] != trial.settings[name] for name in START) == 1
    assert len({json.dumps(t.settings) for t in trials}) == len(trials)


@pytest.mark.parametrize("trials", [1, 7, 12, 27])
@pytest.mark.parametrize(
    "accuracy",
    [separable, lambda _: 0.5, lambda c: None if c.head_decay > 2 else c.lr],
    ids=["one best", "all alike", "many diverge"],
)
def test_every_head_gets_as_many_trials(config, trials, accuracy):
    trainer = Trainer(accuracy)
    found = chosen(config, trainer, trials)
    assert len(trainer.seen) == len(found.trials) == trials
    assert len({json.dumps(t.settings) for t in found.trials}) == trials


def test_there_are_no_more_trials_than_the_grid_has_points(config):
    assert len(chosen(config, Trainer(separable), 40).trials) == 27


def test_the_first_of_equals_is_kept(config):
    assert chosen(config, Trainer(lambda _: 0.5)).settings == START


def test_a_trial_that_diverged_is_passed_over(config):
    found = chosen(config, Trainer(lambda c: None if c.head_decay in (2.0, 20.0) else separable(c)))
    assert found.settings["head_decay"] == 10.0  # the first of equals that did not diverge
    assert [t.accuracy is None for t in found.trials] == [True, False, True, *[False] * 4]


def test_a_search_in_which_all_diverge_says_the_way_out(config):
    with pytest.raises(ValueError, match="compound, cross-entropy: all 7 trials diverged: lower"):
        chosen(config, Trainer(lambda _: None))


def test_no_trials_are_refused(config):
    with pytest.raises(ValueError, match="tune=0: at least 1"):
        tune(config, 0, Trainer(separable))


@pytest.mark.parametrize("ended", [0, 1, 4, 6])
def test_an_interrupted_search_goes_on_after_the_trials_that_ended(config, ended, tmp_path):
    def accuracy(c):
        return None if c.weight_decay > 2 else separable(c)

    straight = chosen(replace(config, output=tmp_path / "straight"), Trainer(accuracy))
    with pytest.raises(KeyboardInterrupt):
        chosen(config, Trainer(accuracy, stop=ended))
    trainer = Trainer(accuracy)
    assert chosen(config, trainer) == straight
    assert len(trainer.seen) == 7 - ended  # those that diverged are not run again either
    assert [c.output.name for c in trainer.seen] == [f"trial{k}" for k in range(ended, 7)]
    again = Trainer(accuracy)
    assert chosen(config, again) == straight
    assert again.seen == []


def test_more_trials_go_on_from_fewer_and_fewer_are_the_first_of_more(config):
    few = chosen(config, Trainer(separable), trials=3)
    trainer = Trainer(separable)
    more = chosen(config, trainer, trials=8)
    assert len(trainer.seen) == 5
    assert more.trials[:3] == few.trials
    assert chosen(config, Trainer(separable, stop=0), trials=3) == few


def test_trials_of_other_settings_are_not_taken_for_these(config):
    chosen(config, Trainer(separable))
    with pytest.raises(
        ValueError, match=r"other settings \(epochs: 12 -> 3\): give another --output"
    ):
        chosen(replace(config, epochs=3), Trainer(separable))


def test_trials_are_of_a_seed_that_is_never_reported(config):
    trainer = Trainer(separable)
    chosen(replace(config, seed=7), trainer)
    assert {seen.seed for seen in trainer.seen} == {TRIAL_SEED}
    seeds = {s for name in CLAIMS for plan in find_claim(name).plans.values() for s in plan.seeds}
    assert TRIAL_SEED not in seeds | set(CompareConfig.seeds)
    with pytest.raises(ValueError, match="1000 is the seed of the trials"):
        comparison(tune=1, seeds=(0, TRIAL_SEED))


def test_losses_of_cosines_have_their_temperature_tuned(config):
    settings = {"loss": "ntce", "feature_norm": "unit"}
    assert [*grid(config)] == ["head_decay", "weight_decay", "lr"]
    assert [*grid(replace(config, **settings))] == ["temperature", "weight_decay", "lr"]


def test_trials_never_see_the_test_images(config):
    trainer = Trainer(separable)
    chosen(config, trainer)
    whole = load_data("multi-digits", DataOptions())
    for seen in trainer.seen:
        assert (seen.validation, seen.resume) == (HELD_OUT, True)
        data = load_data(seen.data, seen)
        assert len(data.test) == round(HELD_OUT * len(whole.train))
        for part in (data.train, data.test):
            assert not scans_of(part.images) & scans_of(whole.test.images)


def test_held_out_images_are_training_images_that_are_not_trained_on():
    whole = load_data("multi-digits", DataOptions())
    data = load_data("multi-digits", DataOptions(validation=0.25))
    parts = [[bytes(i.flatten().tolist()) for i in s.images] for s in (data.train, data.test)]
    assert sorted(parts[0] + parts[1]) == sorted(
        bytes(i.flatten().tolist()) for i in whole.train.images
    )
    assert not set(parts[0]) & set(parts[1])
    assert len(parts[1]) == len(whole.train) // 4
    again = load_data("multi-digits", DataOptions(validation=0.25, test_images=10))
    assert torch.equal(again.test.images, data.test.images)  # whatever else is asked for


def test_a_share_of_all_images_is_refused():
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"validation={share}: a share lies from 0 to below 1"):
            DataOptions(validation=share)


def comparison(**settings):
    shared = asdict(PRESETS["multi-digits"][1])
    for name in ("head", "seed", "output", "jobs"):
        shared.pop(name)
    return CompareConfig(**shared | settings)


def test_tuned_runs_have_what_was_chosen_and_the_plain_ones_what_was_given(tmp_path):
    config = comparison(tune=2, heads=("learned", "compound"), seeds=(3, 4), output=tmp_path)
    assert [(c.head, c.seed, c.run_dir.name) for c in config.searches()] == [
        ("learned", TRIAL_SEED, "learned-tuning"),
        ("compound", TRIAL_SEED, "compound-tuning"),
    ]
    runs = config.runs({"compound": {"lr": 0.5}})
    assert [(c.head, c.seed, c.lr) for c in runs] == [
        ("learned", 3, 0.01),
        ("compound", 3, 0.5),
        ("learned", 4, 0.01),
        ("compound", 4, 0.5),
    ]
    plain = [(c.head, c.seed, c.lr, c.run_dir.name) for c in config.plain_runs()]
    assert plain == [("learned", 3, 0.01, "plain-seed3"), ("learned", 4, 0.01, "plain-seed4")]
    untuned = replace(config, tune=0)
    assert untuned.searches() == untuned.plain_runs() == []


def test_what_does_not_go_with_tuning_is_refused():
    with pytest.raises(ValueError, match="tune=-1: at least 0"):
        comparison(tune=-1)
    with pytest.raises(ValueError, match="judged by the images that their settings were chosen by"):
        comparison(tune=2, validation=0.2)


def command(monkeypatch, place, *more):
    arguments = ["multi-digits", "--output", str(place), "--heads", "learned", "compound"]
    tiny = ["--epochs", "1", "--width", "2", "--features", "20", "--train-images", "600"]
    sizes = ["--test-images", "200", "--batch-size", "120", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments, *tiny, *sizes, *more])
    main()


def test_a_killed_comparison_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    """Tuned, killed in its first runs, gone on with: no finished run is run again."""
    train, ended = engine.train, []

    def killing(config):
        if len(ended) == 5:  # four trials, and a run
            raise KeyboardInterrupt
        found = train(config)
        ended.append(config.run_dir.name)
        return found

    monkeypatch.setattr(engine, "train", killing)
    with pytest.raises(SystemExit) as exit_:
        command(monkeypatch, tmp_path, "--tune", "2")
    assert exit_.value.code == 130
    shown = capsys.readouterr().out
    assert "learned-tuning: trial 1 of 2, head decay 2, weight decay 1, lr 0.01: " in shown
    assert "compound: of 2 trials the best is head decay" in shown

    dates = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    assert len(dates) == 5
    monkeypatch.setattr(engine, "train", train)
    with pytest.raises(SystemExit, match="already holds a run: go on with it with --resume"):
        command(monkeypatch, tmp_path, "--tune", "2")
    command(monkeypatch, tmp_path, "--tune", "2", "--resume")
    assert {p: p.stat().st_mtime_ns for p in dates} == dates
    shown = capsys.readouterr().out
    assert "trial" not in shown.partition("compound: of 2 trials")[0].replace("of 2 trials", "")

    found = read_json(tmp_path / "comparison.json")
    assert list(found["heads"]) == ["learned", "compound", PLAIN]
    assert found["baseline"] == "learned"
    for head, tuning in found["tuning"].items():
        assert len(tuning["trials"]) == 2
        run = read_json(tmp_path / f"{head}-seed0" / "config.json")
        assert {name: run[name] for name in tuning["settings"]} == tuning["settings"]
        assert choice_in_words(tuning["settings"]) in shown
    assert not {"lr", "weight_decay", "head_decay"} & set(found["settings"])
    assert PLAIN in shown
    assert PLAIN in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_heads_are_tuned_side_by_side_as_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    command(monkeypatch, tmp_path / "one", "--tune", "2")
    command(monkeypatch, tmp_path / "two", "--tune", "2", "--jobs", "2")
    one, two = (read_json(tmp_path / place / "comparison.json") for place in ("one", "two"))
    assert one["tuning"] == two["tuning"]
    assert all(
        one["heads"][head]["accuracy"] == two["heads"][head]["accuracy"] for head in one["heads"]
    )


def test_tiny_runs_are_tuned_for_real(tmp_path):
    config = replace(TINY, epochs=1, checkpoint_every=0, output=tmp_path / "search")
    found = tune(config, 2, engine.train)
    for number, trial in enumerate(found.trials):
        record = read_json(tmp_path / "search" / f"trial{number}" / "result.json")
        accuracies = record["history"][-1]["test"]["accuracy"].values()
        assert trial.accuracy == pytest.approx(sum(accuracies) / 2)
        assert len(record["history"]) == 2  # before and after: nothing is measured on the way
