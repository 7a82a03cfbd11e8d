from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY
from safetensors.torch import load_file
from torch.nn import functional as F

from recipes.data import load_data
from recipes.training.building import build_network, head_request
from recipes.training.engine import train
from recipes.training.heads import HEADS, centres
from recipes.training.strategies.equal import EqualWeighting

pytestmark = pytest.mark.recipes


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains(head, tmp_path):
    config = replace(TINY, head=head, epochs=1, checkpoint_every=0, output=tmp_path / "run")
    before, after = train(config).history
    # Twenty steps of a tiny network: better than it was, and than chance.
    assert after.train.loss < 0.95 * before.train.loss
    assert after.train.accuracy["left"] > 0.2


@pytest.mark.parametrize("head", HEADS)
def test_heads_observe_in_training_only(head):
    config = replace(TINY, head=head)
    data = load_data(config.data, config)
    network = build_network(config, data)
    images, labels = data.train.images[::20], data.train.labels[::20]  # one of each pair
    before = network.head.weight.clone()
    network.eval()(images, labels)
    assert (network.head.weight == before).all()
    network.train()(images, labels)
    moved = bool((network.head.weight != before).any())
    observing = ("nearest", "nearest-gradient", "class-mean", "prototypes", "prototypes-bf16")
    assert moved == (head in observing)


@pytest.mark.parametrize("head", ["compound", "correlated", "nearest"])
def test_fixed_heads_learn_a_length_and_biases_if_asked(head, tmp_path):
    output = tmp_path / "run"
    config = replace(TINY, head=head, learn_scale=True, bias=True, scale=2.0, output=output)
    result = train(replace(config, epochs=1, checkpoint_every=0))
    assert result.counts.head_parameters == 1 + 20
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


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_losses_are_those_of_a_share_of_the_logits(head, share):
    config = replace(TINY, head=head)
    data = load_data(config.data, config)
    network = build_network(config, data).eval()
    images, labels = data.train.images[::20], data.train.labels[::20]
    network.logit_share = share
    logits = network.features_and_logits(images)[1].values()
    expected = [F.cross_entropy(share * z, y) for z, y in zip(logits, labels.T, strict=True)]
    torch.testing.assert_close(network(images, labels), torch.stack(expected))


def test_rare_classes_have_more_centres():
    labels = torch.arange(10).repeat_interleave((500 * 100 ** -(torch.arange(10) / 9)).long())
    assert centres(labels, 10, most=8) == [1, 1, 2, 2, 3, 4, 5, 6, 8, 8]
    assert centres(labels, 10, most=1) == [1] * 10
    assert centres(torch.tensor([0, 0, 0, 0, 1]), 3, most=8) == [1, 2, 2]  # no sample: as one
    config = replace(TINY, data="digits", imbalance=30.0, train_images=None, features=60)
    data = load_data("digits", config)
    for name, least in (("one-centre", 1), ("multi-centre", 2), ("multi-centre-direction", 2)):
        head = HEADS[name](head_request(replace(config, head=name), data))
        assert set(head(torch.randn(2, 60))) == {"digit"}
        found = head.code.base.centres
        assert (found[0], found[-1] >= least) == (1, True)
