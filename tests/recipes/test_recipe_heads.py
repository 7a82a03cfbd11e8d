from dataclasses import replace

import pytest
from recipe_runs import TINY

from recipes.data import load_data
from recipes.engine import train
from recipes.heads import HEADS
from recipes.network import Network

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
