"""The claims low-rank, regression and geometric-complexity: decisions, and one tiny run each."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from perceptron_evidence import RUNS, finished, run
from scipy.stats import spearmanr
from torch import nn

from etf_heads.theory import regression_gram
from recipes.claims import find_claim, geometric_complexity, low_rank, perceptrons, regression
from recipes.claims.perceptrons import Perceptron, Problem, Samples, learn
from recipes.training.presets import PRESETS

pytestmark = pytest.mark.recipes


def evidence_of(claim):
    """Two seeds without a spread, for which the claim holds."""
    make = RUNS[claim]
    return {name: [make(name)] * 2 for name in find_claim(claim).plans["reduced"].variants}


def verdicts(claim, found):
    return [criterion.verdict for criterion in find_claim(claim).judge(found)]


def changed(record, place=-1, accuracy=None, **measures):
    """Other measures at one place of a run's history."""
    history = list(record.history)
    row = replace(history[place], collapse=history[place].collapse | measures)
    if accuracy is not None:
        row = replace(row, train=replace(row.train, accuracy={"digit": accuracy}))
    history[place] = row
    return replace(record, history=history)


@pytest.mark.parametrize(
    ("variant", "measures", "failing"),
    [
        ("L = 2, decay 0.001", {"accuracy": 0.98}, 1),
        ("L = 4, decay 0.003", {"accuracy": 0.98}, 1),
        ("L = 2, decay 0.005", {"rank 2": 8.0}, 1),
        ("L = 2, decay 0.001", {"rank 2": 8.0}, 0),  # shown beside, without a criterion
        ("L = 4, decay 0.001", {"rank 2": 8.0}, 1),
        ("L = 4, decay 0.001", {"rank 3": 8.0}, 1),
        ("L = 4, decay 0.001", {"rank 4": 10.0}, 0),
        ("L = 4, decay 0.003", {"rank 2": 7.0, "rank 3": 6.0}, 1),  # no less than with less decay
        ("L = 4, decay 0.003", {"rank 2": 6.0, "rank 3": 6.0}, 0),
        ("L = 2, decay 0.005", {"nc1_ratio": 0.16}, 1),
        ("L = 4, decay 0.001", {"nc1_ratio": None}, 1),
    ],
)
def test_ranks_and_accuracies_decide(variant, measures, failing):
    found = evidence_of("low-rank")
    found[variant] = [changed(record, **measures) for record in found[variant]]
    assert verdicts("low-rank", found).count("not met") == failing


@pytest.mark.parametrize(
    ("variant", "measures", "failing"),
    [
        ("pixels: fixed", {"nmse": 0.62}, 1),
        ("diabetes: fixed", {"nmse": 0.62}, 1),
        ("pixels: fixed", {"nmse": 0.605}, 0),  # behind the other rows there, ahead on two of three
        ("column sums: fixed", {"nrc1": 0.11}, 1),
        ("column sums: learned", {"nrc3": 0.16}, 1),
        ("column sums: identity", {"nrc3": 0.5}, 0),
    ],
)
def test_errors_and_collapse_decide_on_regression(variant, measures, failing):
    found = evidence_of("regression")
    found[variant] = [changed(record, **measures) for record in found[variant]]
    assert verdicts("regression", found).count("not met") == failing


def test_angles_have_to_matter_on_two_of_three():
    found = evidence_of("regression")
    for data in ("pixels", "diabetes"):
        name = f"{data}: identity"
        found[name] = [changed(record, nmse=0.591) for record in found[name]]
    *others, angles = verdicts("regression", found)
    assert angles == "not met"
    assert set(others) == {"met"}


def test_complexity_and_collapse_have_to_fall_together():
    for variant in ("learning rate 0.5", "batch 8"):
        found = evidence_of("geometric-complexity")
        found[variant] = [changed(record, 1, cdnv=0.9, gc=0.0) for record in found[variant]]
        assert verdicts("geometric-complexity", found).count("not met") == 1
        found[variant] = [
            changed(record, 2, cdnv=9.0) for record in evidence_of("geometric-complexity")[variant]
        ]  # after the epochs: no criterion
        assert verdicts("geometric-complexity", found).count("not met") == 0


def test_the_strongest_penalty_has_to_lower_cdnv():
    strongest = f"penalty {geometric_complexity.PENALTIES[-1]:g}"
    for share, verdict in ((0.89, "met"), (0.91, "not met")):
        found = evidence_of("geometric-complexity")
        plain = found["plain"][0].history[1].collapse["cdnv"]
        found[strongest] = [changed(r, 1, cdnv=share * plain) for r in found[strongest]]
        assert verdicts("geometric-complexity", found)[-1] == verdict


def test_a_loss_that_was_not_reached_is_not_met():
    found = evidence_of("geometric-complexity")
    found["batch 8"] = [
        replace(record, history=[record.history[0], changed(record, 2, gc=1.0).history[2]])
        for record in found["batch 8"]
    ]
    history = found["batch 8"][0].history
    found["batch 8"] = [
        replace(
            r, history=[history[0], replace(history[1], train=replace(history[1].train, loss=1.0))]
        )
        for r in found["batch 8"]
    ]
    assert verdicts("geometric-complexity", found).count("not met") == 1
    table = {
        row[0]: dict(zip(found, row[1:], strict=True)) for row in geometric_complexity.lines(found)
    }
    assert table["CDNV, at training loss 0.02"]["batch 8"] == "–"
    assert table["CDNV, after the epochs"]["batch 8"] == "0.5 ± 0"
    assert table["epochs to it"]["plain"] == "10 ± 0"


def test_moments_of_a_run():
    early, late = (
        finished({"gc": 1.0}, epoch=3, loss=0.5),
        finished({"gc": 2.0}, epoch=7, loss=0.02),
    )
    record = run(early, late, settings={"epochs": 3})
    assert geometric_complexity.stopped(record) == {"gc": 2.0}
    assert geometric_complexity.after_epochs(record) == {"gc": 1.0}
    within = [finished({"gc": n}, epoch=3, loss=0.02) for n in (1.0, 2.0)]  # in the last epoch
    record = run(*within, settings={"epochs": 3})
    assert geometric_complexity.stopped(record) == {"gc": 1.0}
    assert geometric_complexity.after_epochs(record) == {"gc": 2.0}


def config(tmp_path, **settings):
    start = {"seed": 3, "epochs": 2, "batch_size": 300, "lr": 0.05, "weight_decay": 0.0}
    given = start | {"resume": True, "output": tmp_path / "run"} | settings
    return replace(PRESETS["multi-digits"][1], **given)


def line(*, slope=1.0, generator_seed=0):
    """y = x A of 40 samples, by a linear map; the number of features is 2."""
    generator = torch.Generator().manual_seed(generator_seed)
    inputs = torch.randn(40, 3, generator=generator)
    samples = Samples(inputs, slope * inputs[:, :1])
    return Problem(
        network=Perceptron(nn.Linear(3, 2), nn.Linear(2, 1)),
        loss=lambda outputs, targets: (outputs - targets).square().mean(),
        train=samples,
        test=samples,
        measure=lambda network, _: {
            "norm": float(network.head.weight.detach().norm()),
            "none": math.nan,
        },
    )


def test_a_run_is_trained_once(tmp_path, monkeypatch):
    first = learn(config(tmp_path), problem=line, slope=2.0)
    assert [row.epoch for row in first.history] == [0, 2]
    assert first.history[-1].train.loss < first.history[0].train.loss
    assert first.history[-1].collapse["none"] is None
    assert first.config["slope"] == 2.0
    assert first.counts.head_parameters == 3
    again = learn(config(tmp_path, output=tmp_path / "other"), problem=line, slope=2.0)
    assert [row.train for row in again.history] == [row.train for row in first.history]
    monkeypatch.setattr(perceptrons, "_trained", None)  # trains nothing
    assert learn(config(tmp_path), problem=line, slope=2.0) == first
    with pytest.raises(ValueError, match=r"other settings \(slope: 2.0 -> 1.0\)"):
        learn(config(tmp_path), problem=line, slope=1.0)


def test_training_goes_on_until_the_loss_and_no_longer_than_patience(tmp_path):
    slow = config(tmp_path, epochs=3, lr=0.01, batch_size=10, output=tmp_path / "a")
    end = learn(slow, problem=line, momentum=0.0, stop=1.0).history
    assert [row.epoch for row in end if row.train.loss > 1.0][-1] == 3
    assert end[-1].epoch > 3
    assert 0.9 < end[-1].train.loss <= 1.0
    quick = config(tmp_path, epochs=20, lr=0.05, batch_size=10, output=tmp_path / "b")
    reached, after = learn(quick, problem=line, stop=0.5).history[1:]
    assert reached.epoch < after.epoch == 20
    never = config(tmp_path, epochs=1, lr=1e-6, output=tmp_path / "c")
    assert [row.epoch for row in learn(never, problem=line, stop=0.1).history] == [0, 1]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="at the learning rate 1e"):
        learn(config(tmp_path, lr=1e20, epochs=9), problem=line)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("name", RUNS)
def test_one_variant_runs(name, tmp_path):
    claim = find_claim(name)
    plan = claim.plans["reduced"]
    variant = list(plan.variants)[-2]
    settings = dict(plan.base) | dict(plan.variants[variant].settings) | {"epochs": 1}
    result = plan.variants[variant].run(config(tmp_path, **settings))
    expected = RUNS[name](variant).history[-1].collapse
    assert set(result.history[-1].collapse) == set(expected)
    assert all(math.isfinite(value) for value in result.history[-1].collapse.values())


@pytest.mark.parametrize("depth", [2, 4])
def test_ranks_are_those_of_the_class_means_before_relu(depth):
    torch.manual_seed(0)
    problem = low_rank.stack(depth=depth)
    first, *_ = problem.decayed
    with torch.no_grad():
        first[3:] = 0
    network, samples = problem.network, problem.train
    found = low_rank.measure(network, samples, depth=depth)
    labels = samples.targets.numpy()
    hidden = samples.inputs
    for number, part in enumerate(network.backbone):
        hidden = part(hidden)
        if number == 5:  # after the three maps of the perceptron and their two ReLUs
            values = hidden.detach().double().numpy()
            means = np.stack([values[labels == k].mean(0) for k in range(10)])
            s = np.linalg.svd(means, compute_uv=False)
            assert found["rank 2"] == (s > 0.05 * s[0]).sum() <= 3
    assert len(found) == depth
    assert [p.shape[1] for p in problem.decayed] == [64] * depth
    assert problem.decayed[-1] is network.head.weight


def test_decay_is_on_the_stack_alone():
    problem = low_rank.stack(depth=2)
    optimizer = perceptrons._optimizer(
        list(problem.network.parameters()),
        decayed=problem.decayed,
        config=replace(PRESETS["multi-digits"][1], weight_decay=0.5),
        momentum=0.9,
    )
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    stack = {id(p) for p in problem.decayed}
    assert {k for k, value in decays.items() if value == 0.5} == stack
    assert len(decays) == len(list(problem.network.parameters()))


@pytest.mark.parametrize(("data", "targets"), [("pixels", 32), ("column sums", 8), ("diabetes", 4)])
def test_targets_and_heads_of_regressions(data, targets):
    train, test = regression.samples_of(data)
    assert train.targets.shape[1] == test.targets.shape[1] == targets
    assert train.targets.mean(0).abs().max() < 1e-4
    variances = train.targets.var(0, correction=0)
    assert variances.mean().item() == pytest.approx(1, rel=1e-4)
    assert (variances.std() < 1e-4) == (data == "diabetes")
    covariance = torch.cov(train.targets.double().T, correction=0)
    gram = regression_gram(covariance, 1e-3, 1e-3)
    fixed, equal = (
        regression.make_head(name, 64, train.targets).weight.double()
        for name in ("fixed", "identity")
    )
    torch.testing.assert_close(fixed @ fixed.T, gram, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        equal @ equal.T, gram.trace() / targets * torch.eye(targets).double(), atol=1e-4, rtol=1e-4
    )


def test_the_normalised_error_is_that_of_the_test_samples():
    train, test = regression.samples_of("diabetes")
    network = Perceptron(nn.Identity(), nn.Linear(train.inputs.shape[1], 4))
    found = regression.measure(network, train, test=test)
    outputs, y = network(test.inputs).detach().double().numpy(), test.targets.double().numpy()
    expected = ((outputs - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert found["nmse"] == pytest.approx(expected, rel=1e-5)


def test_complexity_of_a_linear_map_and_the_bound():
    train, _ = perceptrons.digits()
    network = Perceptron(nn.Linear(64, 64, bias=False), nn.Linear(64, 10))
    found = geometric_complexity.measure(network, train)
    weight = network.backbone.weight.detach().double().numpy()
    gc = (weight**2).sum()
    assert found["gc"] == pytest.approx(gc, rel=1e-5)
    features, labels = train.inputs.double().numpy() @ weight.T, train.targets.numpy()
    means = np.stack([features[labels == k].mean(0) for k in range(10)])
    pairs = [((means[i] - means[j]) ** 2).sum() for i in range(10) for j in range(i)]
    assert found["bound"] == pytest.approx(np.mean(gc / np.array(pairs)), rel=1e-5)


def test_correlations_are_spearmans():
    generator = np.random.default_rng(0)
    gc, cdnv = generator.random((2, 2, 4))  # two seeds, four variants
    found = {
        str(v): [run(finished({"gc": gc[s, v], "cdnv": cdnv[s, v]})) for s in range(2)]
        for v in range(4)
    }
    values = geometric_complexity.correlations(
        found, list(found), "cdnv", partial(lambda record: record.history[-1].collapse)
    )
    assert values == pytest.approx([spearmanr(gc[s], cdnv[s])[0] for s in range(2)])
