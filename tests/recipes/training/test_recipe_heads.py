from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY
from safetensors.torch import load_file

from recipes.data import load_data
from recipes.training.engine import train
from recipes.training.heads import HEADS
from recipes.training.network import Network
from recipes.training.weighting import EqualWeighting

pytestmark = pytest.mark.recipes


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains(head, tmp_path):
    config = replace(TINY, head=head, epochs=1, checkpoint_every=0, output=tmp_path / "run")
    before, after = train(config).history
    # Twenty steps of a tiny network: better than it was, and than chance.
    assert after["train"]["loss"] < 0.95 * before["train"]["loss"]
    assert after["train"]["accuracy"]["left"] > 0.2


@pytest.mark.parametrize("head", HEADS)
def test_heads_observe_in_training_only(head):
    config = replace(TINY, head=head)
    data = load_data(config.data, config)
    network = Network(config, data)
    images, labels = data.train.images[::100], data.train.labels[::100]  # one of each pair
    before = network.head.weight.clone()
    network.eval()(images, labels)
    assert (network.head.weight == before).all()
    network.train()(images, labels)
    moved = bool((network.head.weight != before).any())
    assert moved == (head in ("nearest", "nearest-gradient", "class-mean"))


@pytest.mark.parametrize("head", ["compound", "correlated", "nearest"])
def test_fixed_heads_learn_a_length_and_biases_if_asked(head, tmp_path):
    output = tmp_path / "run"
    config = replace(TINY, head=head, learn_scale=True, bias=True, scale=2.0, output=output)
    result = train(replace(config, epochs=1, checkpoint_every=0))
    assert result.counts["head_parameters"] == 1 + 20
    trained = load_file(output / "model.safetensors")
    assert trained["head.scale"].item() != 2.0
    assert trained["head.bias"].any()


def test_training_logits_rise_over_the_epochs_asked_for(monkeypatch, tmp_path):
    shares = []

    def backward(self, model, images, labels):
        shares.append(self.network.logit_share)
        original(self, model, images, labels)

    original = EqualWeighting.backward
    monkeypatch.setattr(EqualWeighting, "backward", backward)
    train(replace(TINY, epochs=2, warm_up_logits=1, checkpoint_every=0, output=tmp_path / "run"))
    assert shares == [min(1, step / 20) for step in range(1, 41)]


def test_only_training_logits_are_shared_out():
    config = replace(TINY, head="compound", feature_norm=None)
    network = Network(config, load_data(config.data, config))
    features = torch.randn(4, config.features)
    whole = network.train().classify(features)
    network.logit_share = 0.25
    part, evaluated = network.classify(features), network.eval().classify(features)
    for task, logits in whole.items():
        assert torch.equal(part[task], 0.25 * logits)
        assert torch.equal(evaluated[task], logits)
