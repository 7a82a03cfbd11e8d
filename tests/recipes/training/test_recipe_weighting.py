"""Gradients of each strategy on two tasks, against NumPy and SciPy on the tasks' own gradients."""

import math
import sys
from dataclasses import replace
from functools import cache
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from recipe_runs import TINY, kill_in_mid_epoch, run
from safetensors.torch import load_file
from scipy.optimize import fsolve
from torch.nn import functional as F

from recipes.data import load_data
from recipes.training.building import build_network
from recipes.training.engine import train
from recipes.training.result import RunResult
from recipes.training.weighting import WEIGHTINGS

pytestmark = pytest.mark.recipes
AGGREGATORS = ("mgda", "pcgrad", "fairgrad")
SCALARIZERS = ("uncertainty", "dwa", "famo")
STRATEGIES = AGGREGATORS + SCALARIZERS
SMALL = replace(TINY, train_images=3000, test_images=500)
BOTH_KINDS_OF_HEAD = pytest.mark.parametrize("head", ["learned-norm", "compound"])


class Problem:
    """A network, a strategy, a batch, and the gradient of each task's loss by itself."""

    def __init__(self, name, head, seed=0):
        config = replace(TINY, head=head)
        data = load_data(config.data, config)
        torch.manual_seed(seed)
        self.network = build_network(config, data)
        self.images, self.labels = data.train.images[::20], data.train.labels[::20].clone()
        self.weighting = WEIGHTINGS[name](Accelerator(cpu=True), self.network, data.tasks)

    def parameters(self, part):
        """Of the backbone, or of the head, which has none when it is fixed."""
        return list(getattr(self.network, part).parameters())

    def losses(self):
        """Of both tasks."""
        logits = self.network.head(self.network.features(self.images))
        return [F.cross_entropy(z, y) for z, y in zip(logits.values(), self.labels.T, strict=True)]

    def own_gradients(self, part):
        """Of both tasks, (2, P)."""
        rows = []
        for task in range(2):
            found = torch.autograd.grad(self.losses()[task], self.parameters(part))
            rows.append(np.concatenate([g.double().flatten().numpy() for g in found]))
        return np.stack(rows)

    def backward(self):
        """What the strategy makes of them; earlier gradients are forgotten."""
        self.network.zero_grad()
        self.weighting.backward(self.network, self.images, self.labels)

    def gradient(self, part):
        """What the strategy made of them, (P,)."""
        found = [p.grad.double().flatten().numpy() for p in self.parameters(part)]
        return np.concatenate(found) if found else np.zeros(0)

    def step(self, size=0.05):
        """Of gradient descent."""
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.sub_(parameter.grad, alpha=size)


def assert_near(found, expected, tolerance=1e-4):
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def nearest_to_zero(rows):
    """The point between two gradients that is nearest to 0 has a closed form."""
    first, second = rows
    share = (second - first) @ second / ((first - second) @ (first - second))
    share = np.clip(share, 0, 1)
    return share * first + (1 - share) * second


def without_conflict(rows):
    """Of gradients that point against each other, each loses its component along the other."""
    first, second = rows
    product = min(first @ second, 0)
    return first - product / (second @ second) * second + second - product / (first @ first) * first


def equally_fair(rows):
    """The weights w whose gradient d = sum w_i g_i gives each task g_i . d = w_i^(-1/2)."""
    gramian = rows @ rows.T
    logs = fsolve(lambda u: gramian @ np.exp(u) - np.exp(-u / 2), np.zeros(2), xtol=1e-12)
    return np.exp(logs) @ rows


@BOTH_KINDS_OF_HEAD
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "oracle", "tolerance"),
    [
        ("mgda", nearest_to_zero, 1e-4),
        ("pcgrad", without_conflict, 1e-4),
        ("fairgrad", equally_fair, 1e-3),
    ],
)
def test_aggregators_set_the_backbone_and_leave_heads_the_sum(name, oracle, tolerance, seed, head):
    problem = Problem(name, head, seed)
    problem.backward()
    rows = problem.own_gradients("backbone")
    expected = oracle(rows)
    assert_near(problem.gradient("backbone"), expected, tolerance)
    assert np.linalg.norm(expected - rows.sum(0)) > 1e-3 * np.linalg.norm(expected) or (
        name == "pcgrad" and rows[0] @ rows[1] >= 0
    )
    if head == "learned-norm":
        assert_near(problem.gradient("head"), problem.own_gradients("head").sum(0))
    else:
        assert not problem.parameters("head")


def test_the_seeds_above_have_gradients_in_conflict_and_others():
    products = []
    for seed in range(4):
        first, second = Problem("equal", "compound", seed).own_gradients("backbone")
        products.append(first @ second)
    assert min(products) < 0 < max(products)


@BOTH_KINDS_OF_HEAD
def test_uncertainty_weighs_by_half_of_the_learned_precision(head):
    problem = Problem("uncertainty", head)
    (log_variances,) = problem.weighting.parameters()
    assert log_variances.tolist() == [0, 0]
    with torch.no_grad():
        log_variances.copy_(torch.tensor([0.5, -0.75]))
    problem.backward()
    halves = np.exp([-0.5, 0.75]) / 2
    assert_near(problem.gradient("backbone"), halves @ problem.own_gradients("backbone"))
    if head == "learned-norm":
        assert_near(problem.gradient("head"), halves @ problem.own_gradients("head"))
    losses = np.array([loss.item() for loss in problem.losses()])
    assert_near(log_variances.grad.numpy(), 0.5 - halves * losses)


@BOTH_KINDS_OF_HEAD
def test_dwa_weighs_by_how_losses_fell_over_two_epochs(head):
    problem = Problem("dwa", head)
    means = []
    for _ in range(2):
        losses = []
        for _ in range(3):
            problem.backward()
            rows = problem.own_gradients("backbone")
            assert_near(problem.gradient("backbone"), rows.sum(0))
            losses.append([loss.item() for loss in problem.losses()])
            problem.step()
        problem.labels[:, 1] = 3  # so that the losses change differently
        means.append(np.mean(losses, axis=0))
        problem.weighting.after_epoch()
    problem.backward()
    powers = np.exp(means[1] / means[0] / 2)
    weights = 2 * powers / powers.sum()
    assert abs(weights[0] - 1) > 1e-3
    for part in ("backbone", "head") if head == "learned-norm" else ("backbone",):
        assert_near(problem.gradient(part), weights @ problem.own_gradients(part), 1e-5)


@BOTH_KINDS_OF_HEAD
def test_famo_weighs_by_an_adam_over_the_logarithms_of_losses(head):
    problem = Problem("famo", head)
    logits, mean, square = np.zeros(2), np.zeros(2), np.zeros(2)
    farthest = 0.0
    for step in range(1, 5):
        before = np.array([loss.item() for loss in problem.losses()])
        shares = np.exp(logits) / np.exp(logits).sum()
        weights = shares / before / (shares / before).sum()
        problem.backward()
        for part in ("backbone", "head") if head == "learned-norm" else ("backbone",):
            assert_near(problem.gradient(part), weights @ problem.own_gradients(part))
        problem.step()
        after = np.array([loss.item() for loss in problem.losses()])
        problem.weighting.after_step(problem.images, problem.labels)
        fell = np.log(before) - np.log(after)
        gradient = shares * (fell - shares @ fell) + 1e-3 * logits
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        direction = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        logits = logits - 0.025 * direction
        (found,) = problem.weighting.scalarizer.parameters()
        np.testing.assert_allclose(found.detach().numpy(), logits, atol=1e-4)
        farthest = max(farthest, np.abs(logits).max())
    assert farthest > 0.02


@pytest.mark.parametrize("head", ["learned-norm", "nearest"])
def test_famo_looks_at_the_batch_again_without_a_trace_in_the_network(head):
    problem = Problem("famo", head)
    problem.backward()
    before = {name: value.clone() for name, value in problem.network.state_dict().items()}
    problem.weighting.after_step(problem.images, problem.labels)
    after = problem.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert problem.network.training


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_task_without_labels_leaves_the_other_its_direction(name):
    problem = Problem(name, "learned-norm")
    problem.backward()
    problem.step()
    problem.labels[:, 1] = -100
    problem.network.zero_grad()
    first = problem.losses()[0]
    expected = torch.autograd.grad(first, problem.parameters("backbone"))
    expected = np.concatenate([g.double().flatten().numpy() for g in expected])
    last = problem.weighting.seen.clone() if name in SCALARIZERS else None
    problem.backward()
    problem.weighting.after_step(problem.images, problem.labels)
    found = problem.gradient("backbone")
    size = np.linalg.norm(found) / np.linalg.norm(expected)
    assert 0.1 < size < 10
    assert_near(found, size * expected, 1e-3)
    if last is not None:
        assert problem.weighting.seen[1] == last[1]
        assert problem.weighting.seen[0] != last[0]


def test_before_a_task_has_been_seen_its_loss_is_that_of_chance():
    assert Problem("famo", "compound").weighting.seen.tolist() == pytest.approx([math.log(10)] * 2)


@pytest.mark.parametrize("name", STRATEGIES)
def test_gradients_lie_in_memory_as_the_parameters_do(name):
    """Fused AdamW on a CPU goes by the order in memory, without a word where they differ."""
    problem = Problem(name, "learned-norm")
    problem.backward()
    assert not problem.network.backbone[4].weight.is_contiguous()
    for parameter in problem.network.parameters():
        assert parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize(
    ("name", "head"), list(zip(WEIGHTINGS, cycle(["learned-norm", "compound"]), strict=False))
)
def test_every_strategy_trains_two_epochs_and_is_recorded(name, head, tmp_path):
    result = train(
        replace(SMALL, weighting=name, head=head, batch_size=150, output=tmp_path / "run")
    )
    assert RunResult.read(tmp_path / "run").config["weighting"] == name
    assert min(result.history[-1].test.accuracy.values()) > 0.4  # 0.1 is chance
    assert all(math.isfinite(value) for value in result.history[-1].collapse.values())


@pytest.mark.parametrize("name", ["mgda", "famo"])
def test_the_forward_pass_may_be_in_bfloat16(name, tmp_path):
    config = replace(SMALL, weighting=name, mixed_precision="bf16", output=tmp_path / "run")
    assert run(replace(config, train_images=1200, batch_size=60)) == [0]
    result = RunResult.read(config.run_dir)
    assert result.provenance.mixed_precision == "bf16"
    assert result.history[2].train.loss < 0.8 * result.history[0].train.loss


IMAGE_BY_IMAGE = replace(
    SMALL,
    head="learned",
    backbone="cnn-image-by-image",
    augment=False,
    train_images=600,
    batch_size=150,
    epochs=3,
    lr=2e-3,
    checkpoint_every=0,
)
"""A batch is no more than its images, however it is shared out; 12 steps."""


def moves(config):
    """How far the run took the weights, from where they started."""
    start, data = replace(config, output=None), load_data(config.data, config)
    torch.manual_seed(config.seed)
    first = build_network(start, data).state_dict()
    last = load_file(config.run_dir / "model.safetensors")
    names = [name for name in last if first[name].is_floating_point()]
    return torch.cat([(last[name] - first[name]).flatten() for name in names])


def assert_same_steps(one, other, tolerance):
    difference = (moves(other) - moves(one)).norm() / moves(one).norm()
    assert difference < tolerance


def one_aggregator(names):
    """The others reduce the same Jacobian in the same code, and differ in what they make of it."""
    others = AGGREGATORS[1:]
    return [pytest.param(n, marks=pytest.mark.slow if n in others else ()) for n in names]


@pytest.fixture(scope="module")
def whole_batches(tmp_path_factory):
    """Settings of a run of each strategy that ran through in one process."""

    @cache
    def of(name):
        config = replace(IMAGE_BY_IMAGE, weighting=name, output=tmp_path_factory.mktemp(name))
        assert run(config) == [0]
        return config

    return of


@pytest.mark.parametrize("name", one_aggregator(STRATEGIES))
def test_two_processes_take_the_steps_of_one(name, whole_batches, tmp_path):
    one = whole_batches(name)
    two = replace(one, output=tmp_path / "two")
    assert run(two, processes=2) == [0, 0]
    assert_same_steps(one, two, 2e-3)


@pytest.mark.parametrize("name", one_aggregator([*AGGREGATORS, "uncertainty", "dwa"]))
def test_a_batch_in_parts_takes_the_steps_of_a_whole_one(name, whole_batches, tmp_path):
    whole = whole_batches(name)
    parts = replace(whole, gradient_accumulation=2, output=tmp_path / "parts")
    assert run(parts) == [0]
    assert_same_steps(whole, parts, 2e-3)


@pytest.mark.parametrize("name", SCALARIZERS)  # aggregators have no state
def test_a_run_killed_in_its_third_epoch_ends_with_the_same_weights(name, tmp_path):
    settings = {"train_images": 600, "batch_size": 150, "epochs": 3, "checkpoint_every": 1}
    kill_in_mid_epoch(replace(SMALL, weighting=name, **settings), tmp_path)


def test_two_processes_killed_in_mid_epoch_end_with_the_same_weights(tmp_path):
    settings = {"train_images": 600, "batch_size": 50, "epochs": 1}
    kill_in_mid_epoch(replace(SMALL, weighting="famo", **settings), tmp_path, processes=2)


def accelerator(**settings):
    usual = {"gradient_accumulation_steps": 1, "mixed_precision": "no"}
    return SimpleNamespace(device=torch.device("cpu"), **(usual | settings))


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_makes_no_sense_is_refused_at_once(name):
    two, network = {"a": 3, "b": 3}, Problem("equal", "compound").network
    with pytest.raises(ValueError, match=f"weighting={name} has nothing to weigh in one task"):
        WEIGHTINGS[name](accelerator(), network, {"a": 3})
    with pytest.raises(ValueError, match=r"with mixed_precision=fp16 .*: choose bf16 or no"):
        WEIGHTINGS[name](accelerator(mixed_precision="fp16"), network, two)


def test_famo_does_not_take_batches_in_parts(tmp_path):
    with pytest.raises(ValueError, match="gradient_accumulation=2 no batch is computed whole"):
        train(replace(TINY, weighting="famo", gradient_accumulation=2, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_torchjd_the_error_says_how_to_get_it(name, monkeypatch):
    network = Problem("equal", "compound").network
    for module in ("aggregation", "autojac", "scalarization"):
        monkeypatch.setitem(sys.modules, f"torchjd.{module}", None)
    with pytest.raises(ValueError, match=r'not installed: pip install "etf_heads\[recipes\]"'):
        WEIGHTINGS[name](accelerator(), network, {"a": 3, "b": 3})
