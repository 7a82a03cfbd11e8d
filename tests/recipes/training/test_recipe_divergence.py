"""Training whose loss or weights stop being finite."""

import math
import re
from dataclasses import replace
from itertools import count

import pytest
import torch
from accelerate.utils import set_seed
from recipe_runs import TINY, files_below, metrics, run, weights
from safetensors.torch import load_file

import recipes.train
import recipes.training.engine
import recipes.training.strategies.equal
from recipes.data import load_data
from recipes.training.building import build_network
from recipes.training.checkpoint import newest_checkpoint
from recipes.training.engine import train
from recipes.training.heads import HEADS
from recipes.training.network import Network
from recipes.training.processes import all_finite, make_accelerator
from recipes.training.weighting import WEIGHTINGS

pytestmark = pytest.mark.recipes
SMALL = replace(TINY, train_images=2000, test_images=200, epochs=1)
"""Four steps."""
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("what", "name"),
    [
        *(("head", head) for head in ("learned", "compound", "nearest", "class-mean")),
        *(("weighting", weighting) for weighting in WEIGHTINGS),
    ],
)
@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_a_learning_rate_out_of_this_world_is_named_and_nothing_is_saved(
    what, name, checkpoint_every, tmp_path
):
    config = replace(SMALL, lr=1e38, checkpoint_every=checkpoint_every, output=tmp_path / "run")
    words = r"not finite after step \d, in epoch 1 of 1, at the learning rate .*e\+3\d\. .* --lr"
    with pytest.raises(FloatingPointError, match=words):
        train(replace(config, **{what: name}))
    for file in config.run_dir.rglob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(file).values())
    assert not (config.run_dir / "result.json").exists()


def poison(monkeypatch, step, value):
    """Make the loss of one step NaN or infinite, and with it the gradient."""
    calls = count(1)

    losses = Network.losses

    def poisoned(*batch, **options):
        loss = losses(*batch, **options)
        return loss * value if next(calls) == step else loss

    monkeypatch.setattr(Network, "losses", poisoned)


@pytest.mark.parametrize(
    ("step", "value", "found"),
    [(1, NAN, 7), (7, INF, 7), (16, INF, 20), (22, NAN, 28), (40, NAN, 40)],
)
def test_no_good_checkpoint_is_replaced_by_one_of_a_run_that_diverged(  # noqa: PLR0917
    step, value, found, straight, tmp_path, monkeypatch
):
    config = replace(straight, output=tmp_path / "run", resume=True)
    with monkeypatch.context() as patch:
        poison(patch, step, value)
        with pytest.raises(FloatingPointError, match=rf"after step {found}, in epoch ") as said:
            train(config)
    words = r"epoch (\d) of 2, at the learning rate ([\d.e-]+)\."
    epoch, rate = re.search(words, str(said.value)).groups()
    assert int(epoch) == 1 + (found > 20)
    angle = math.pi * max(found - 5, 0) / 36  # four steps up, then along a cosine
    assert float(rate) == pytest.approx(config.lr * (1 + math.cos(angle)) / 2, rel=5e-3)

    saved = newest_checkpoint(config)
    steps = [7, 14, 20, 21, 28, 35]
    before = [n for n in steps if n < found]
    assert (saved is None) == (not before)
    if saved is not None:
        last = before[-1]
        assert saved.name == f"epoch{last // 20:05d}-step{last % 20:07d}"
        state = load_file(saved / "model.safetensors")
        assert all(v.isfinite().all() for v in state.values())
    assert not (config.run_dir / "result.json").exists()

    assert run(config) == [0]  # the fault, not the run, was to blame here
    assert metrics(config.run_dir) == metrics(straight.run_dir)
    assert weights(config.run_dir) == weights(straight.run_dir)


def test_statistics_that_are_not_finite_stop_a_run_too(tmp_path):
    def spoiled(config, data):
        network = build_network(config, data)
        network.backbone[1].running_var[0] = math.inf
        return network

    config = replace(SMALL, output=tmp_path / "run")
    with pytest.raises(FloatingPointError, match="after step 0, in epoch 0 of 1"):
        train(config, make_network=spoiled)
    assert files_below(config.run_dir).keys() == {"config.json"}


def test_a_loss_beyond_all_numbers_of_finite_weights_stops_a_run(tmp_path):
    rows = []
    with pytest.raises(FloatingPointError, match=r"or --scale \(1e\+38\)"):
        train(replace(SMALL, scale=1e38, output=tmp_path / "run"), on_epoch=rows.append)
    assert rows == []


def test_the_training_script_says_it_in_one_line(tmp_path, monkeypatch):
    options = f"multi-digits --output {tmp_path}/run --train-images 2000 --epochs 1 --lr 1e38"
    monkeypatch.setattr("sys.argv", ["train.py", *options.split()])
    with pytest.raises(SystemExit, match=r"^error: the loss or the weights are not finite after"):
        recipes.train.main()


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_finite_before_training(name):
    config = replace(SMALL, head=name)
    data = load_data(config.data, config)
    set_seed(0)
    network = build_network(config, data)
    accelerator = make_accelerator(config)
    assert all_finite(accelerator, network)
    next(network.backbone.parameters()).data.view(-1)[-1] = math.nan
    assert not all_finite(accelerator, network)


@pytest.fixture
def scaled(monkeypatch):
    """Runs on a CPU scale their loss, as with fp16; by how much after each step is in the list."""
    scales, after_step = [], recipes.training.strategies.equal.EqualWeighting.after_step

    def make(config):
        accelerator = make_accelerator(config)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    def noted(self, images, labels):
        scales.append(self.accelerator.scaler.get_scale())
        after_step(self, images, labels)

    monkeypatch.setattr(recipes.training.engine, "make_accelerator", make)
    monkeypatch.setattr(recipes.training.strategies.equal.EqualWeighting, "after_step", noted)
    return scales


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_step_that_the_scaler_of_fp16_skips_is_no_divergence(
    value, scaled, tmp_path, monkeypatch
):
    poison(monkeypatch, 3, value)
    result = train(replace(TINY, output=tmp_path / "run", checkpoint_every=1, epochs=1))
    assert scaled == [2.0**16] * 2 + [2.0**15] * 18  # the third was skipped
    assert result.history[1].train.loss < result.history[0].train.loss


def test_fp16_is_named_as_what_may_be_left_out(scaled, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.mixed_precision", "fp16")
    with pytest.raises(FloatingPointError, match=r"or with --mixed-precision bf16 or no$"):
        train(replace(SMALL, scale=1e38, output=tmp_path / "run"))
    assert not scaled
