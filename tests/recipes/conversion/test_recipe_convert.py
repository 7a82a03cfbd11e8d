import sys
from dataclasses import replace

import pytest
import torch
from html_page import Page
from recipe_results import finished_run
from recipe_runs import TINY

from etf_heads.geometry import compound_etf
from recipes import convert
from recipes.conversion.config import ConvertConfig
from recipes.conversion.report import convert_table, convert_verdict
from recipes.conversion.summary import Converted, Summary, summarise
from recipes.conversion.swap import CONVERSIONS, KEPT, swapped
from recipes.data.digits import multi_digits
from recipes.intervals import Interval
from recipes.records import read_record
from recipes.training.engine import train
from recipes.training.result import RunResult, trained_network, write_weights

pytestmark = pytest.mark.recipes
SHORT = replace(TINY, epochs=1, checkpoint_every=0, width=2)


@pytest.fixture(scope="module", params=["learned", "learned-norm"])
def trained(request, tmp_path_factory):
    config = replace(SHORT, head=request.param, output=tmp_path_factory.mktemp("run"))
    return config, train(config)


def log_probabilities(network):
    with torch.no_grad():
        logits = network.eval()(multi_digits().test.images[:200])
    return {task: z.log_softmax(1) for task, z in logits.items()}


@pytest.mark.parametrize("way", [*CONVERSIONS, KEPT])
def test_only_the_head_is_replaced(trained, way):
    config, _ = trained
    data = multi_digits()
    before, after = trained_network(config, data), swapped(config, way)(config, data)
    images = data.test.images[:50]
    torch.testing.assert_close(
        after.eval().features_and_logits(images)[0], before.eval().features_and_logits(images)[0]
    )
    learned = sum(p.numel() for p in before.head.parameters())
    left = sum(p.numel() for p in after.head.parameters())
    assert left == (learned if way == KEPT else 20)  # the biases
    rank = torch.linalg.matrix_rank(after.head.weight.detach())
    assert rank == (20 if way == KEPT else 18)


def test_a_classifier_that_is_an_etf_already_is_converted_without_loss(trained, tmp_path):
    config, _ = trained
    network = trained_network(config, multi_digits())
    rotation, _ = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0)))
    weight = 3 * compound_etf([10, 10], 20, dtype=torch.float32) @ rotation
    weight[:10] += torch.ones(20)  # the same for all classes of a task: softmax does not see it
    network.head.weight.data.copy_(weight)
    write_weights(network, tmp_path)
    make = swapped(replace(config, output=tmp_path), "from_linear")
    converted = make(config, multi_digits())
    assert converted.head.scale == pytest.approx(3)
    expected = log_probabilities(network)
    for task, found in log_probabilities(converted).items():
        torch.testing.assert_close(found, expected[task], rtol=0, atol=1e-4)


def test_training_goes_on_from_the_trained_network(trained, tmp_path):
    config, result = trained
    further = train(replace(config, output=tmp_path), make_network=swapped(config, KEPT))
    assert further.history[0].test == result.history[-1].test
    assert further.history[1].train.loss < further.history[0].train.loss


def test_differences_are_paired_by_seed():
    runs = [
        Converted("learned", 0, KEPT, 0.1, trained=0.90, swapped=0.90, tuned=0.92),
        Converted("learned", 0, "from_linear", 0.1, trained=0.90, swapped=0.86, tuned=0.91),
        Converted("learned", 1, KEPT, 0.1, trained=0.80, swapped=0.80, tuned=0.84),
        Converted("learned", 1, "from_linear", 0.1, trained=0.80, swapped=0.78, tuned=0.81),
    ]
    found = summarise(runs, finished_run("learned", 0, [0.9])).heads["learned"]
    assert found.trained.mean == pytest.approx(0.85)
    way = found.ways["from_linear"]
    assert way.swap.mean == pytest.approx(-0.03)  # -0.04 and -0.02
    assert way.swap.half == pytest.approx(12.706205 * 0.01, rel=1e-6)  # t(0.975, 1)
    (tuned,) = way.tuned
    assert tuned.difference == Interval(pytest.approx(0.01), pytest.approx(0), 2)
    assert tuned.to_kept.mean == pytest.approx(-0.02)  # -0.01 and -0.03


@pytest.mark.parametrize(
    ("after", "sense"),
    [
        # t(0.975, 1) = 12.7 times 0.005 points: -0.035 ± 0.064 and -0.445 ± 0.064
        ([0.8996, 0.8997], "with kept, a; not shown for none."),
        ([0.8955, 0.8956], "with kept; not shown for a."),
    ],
)
def test_the_verdict_follows_from_the_intervals(after, sense):
    runs = [
        Converted("learned", seed, way, 0.1, trained=0.9, swapped=0.9, tuned=tuned)
        for seed in range(2)
        for way, tuned in ((KEPT, 0.9), ("a", after[seed]))
    ]
    first = finished_run("learned", 0, [0.9])
    assert convert_verdict(summarise(runs, first)).endswith(sense)
    assert "With one seed" in convert_verdict(summarise(runs[:2], first))


def test_the_recipe_from_the_command_line(tmp_path, monkeypatch, capsys):
    options = "--heads learned --seeds 3 --rates 0.001 --epochs 1 --width 2 --features 20"
    options += f" --train-images 2000 --test-images 400 --batch-size 100 --output {tmp_path}"
    arguments = ["multi-digits", *options.split()]
    monkeypatch.setattr(sys, "argv", ["convert.py", *arguments])
    convert.main()
    printed = capsys.readouterr().out
    summary = read_record(Summary, tmp_path / "convert.json")
    run = RunResult.read(tmp_path / "learned-seed3")
    lines = convert_table(summary)
    assert [line[0].strip() for line in lines[2:]] == [KEPT, *CONVERSIONS]
    assert all(title in printed for title in ("from_linear", "epoch at 0.001", "one seed"))
    (kept,) = [r for r in summary.runs if r.way == KEPT]
    accuracies = run.history[-1].test.accuracy.values()
    assert kept.trained == kept.swapped == pytest.approx(sum(accuracies) / 2)
    page = Page()
    page.feed((tmp_path / "convert.html").read_text())
    assert page.is_self_contained()
    assert page.tags.count("svg") == 1

    before = (tmp_path / "convert.json").read_text()  # and once more, from what is finished
    monkeypatch.setattr(sys, "argv", ["convert.py", *arguments, "--resume"])
    convert.main()
    assert (tmp_path / "convert.json").read_text() == before


@pytest.mark.parametrize("rates", [(), (0.0,), (0.1, 0.1)])
def test_rates_that_are_not_possible(rates):
    with pytest.raises(ValueError, match=r"at least one is needed, and none twice|must be above 0"):
        ConvertConfig(preset="", data="multi-digits", rates=rates)
