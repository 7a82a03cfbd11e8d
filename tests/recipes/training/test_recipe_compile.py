"""Runs whose backbone torch.compile has made: the same but for rounding, and resumed exactly."""

from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY, kill_in_mid_epoch, metrics, weights
from safetensors.torch import load_file
from torch import nn

from recipes.data.digits import multi_digits
from recipes.training.backbones import BACKBONES
from recipes.training.engine import train
from recipes.training.result import trained_network
from recipes.training.weighting import WEIGHTINGS

pytestmark = pytest.mark.recipes
SHORT = replace(TINY, head="learned", epochs=1, checkpoint_every=0, batch_size=500)
"""Four steps."""


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Directories of the same run, as it is and compiled."""
    configs = [
        replace(SHORT, compile=on, output=tmp_path_factory.mktemp("run")) for on in (False, True)
    ]
    for config in configs:
        train(config)
    return configs


def losses(config):
    return [s.loss for row in metrics(config.run_dir) for s in (row.train, row.test)]


@pytest.mark.slow
def test_what_is_compiled_computes_the_same():
    """In float64 nothing but a mistake exceeds 1e-10 of the largest gradient."""
    images = multi_digits().train.images[:50].double()
    plain = BACKBONES["cnn"](images.shape[1:], 20, 4).double()
    compiled = BACKBONES["cnn"](images.shape[1:], 20, 4).double()
    compiled.load_state_dict(plain.state_dict())
    compiled.compile()
    weight = torch.randn(50, 20, dtype=torch.float64)
    for network in (plain, compiled):
        (network(images) * weight).sum().backward()
    largest = max(p.grad.abs().max() for p in plain.parameters())
    for p, q in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() < 1e-10 * largest
    torch.testing.assert_close(list(plain.buffers()), list(compiled.buffers()))


def test_untrained_networks_measure_the_same_to_the_last_bit(both):
    plain, compiled = (metrics(config.run_dir)[0] for config in both)
    assert plain == compiled


@pytest.mark.usefixtures("both")  # torch has on disk what it compiled for equal weighting
@pytest.mark.parametrize(
    "weighting",
    [
        pytest.param(name, marks=[] if name in ("equal", "mgda") else pytest.mark.slow)
        for name in WEIGHTINGS
    ],
)
def test_every_weighting_trains_the_same_but_for_rounding(weighting, tmp_path):
    """AdamW divides by the gradient's size: where that is near zero, rounding becomes a step."""
    plain, compiled = (
        replace(SHORT, weighting=weighting, compile=on, output=tmp_path / str(on))
        for on in (False, True)
    )
    train(plain)
    train(compiled)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    assert weights(compiled.run_dir) != weights(plain.run_dir)


def test_weights_have_the_same_names_and_load_without_compiling(both):
    plain, compiled = (load_file(config.run_dir / "model.safetensors") for config in both)
    assert {name: v.shape for name, v in compiled.items()} == {
        name: v.shape for name, v in plain.items()
    }
    network = trained_network(replace(both[1], compile=False), multi_digits())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, compiled[name], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_in_mid_epoch_a_compiled_run_ends_with_the_same_metrics(processes, tmp_path):
    config = replace(TINY, backbone="cnn-dropout", epochs=1, compile=True)
    kill_in_mid_epoch(config, tmp_path, processes)


@pytest.mark.parametrize("which", [0, 1])
def test_a_run_is_resumed_as_it_was_started(which, both):
    config = replace(both[which], compile=not both[which].compile, resume=True)
    with pytest.raises(ValueError, match=r"other settings \(compile: (True|False) -> "):
        train(config)


class Tells(nn.Module):
    """A backbone that notes whether it was compiled when it was last called in each mode."""

    def __init__(self, features):
        super().__init__()
        self.linear = nn.LazyLinear(features)

    def forward(self, images):
        if self.training:
            self.trained = torch.compiler.is_compiling()
        else:
            self.measured = torch.compiler.is_compiling()
        return self.linear(images.flatten(1))


@pytest.fixture
def made(monkeypatch):
    """The backbones of the runs of a test."""
    backbones = []

    def backbone(image_shape, features, _):
        made = Tells(features)
        made(torch.zeros(1, *image_shape))
        backbones.append(made)
        return made

    monkeypatch.setitem(BACKBONES, "cnn", backbone)
    return backbones


@pytest.mark.parametrize("compiled", [False, True])
def test_training_is_compiled_and_measuring_is_not(compiled, made, tmp_path):
    train(replace(SHORT, compile=compiled, output=tmp_path / "run"))
    assert made[0].trained == compiled
    assert not made[0].measured


def test_no_run_uses_up_what_a_process_may_compile_of_the_next(made, tmp_path):
    """Beyond torch's limit, by default 8, a function runs as it is, without an error."""
    with torch._dynamo.config.patch(recompile_limit=1):
        for batch in (500, 250):
            train(replace(SHORT, compile=True, batch_size=batch, output=tmp_path / f"{batch}"))
    assert [backbone.trained for backbone in made] == [True, True]
