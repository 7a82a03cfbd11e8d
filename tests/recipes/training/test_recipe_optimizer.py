"""Which parameters decay how much: the same sum along the linear path for all heads."""

from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY
from torch import nn

from recipes.data import load_data
from recipes.training.building import build_network
from recipes.training.heads import HEADS
from recipes.training.optimizer import make_optimizer, parameter_groups, warm_up_then_cosine

pytestmark = pytest.mark.recipes
DECAY = 0.25


def network_and_decays(**settings):
    """A network, and the decay of each parameter as a multiple of the usual one."""
    config = replace(TINY, weight_decay=DECAY, **settings)
    network = build_network(config, load_data(config.data, config))
    other = nn.Parameter(torch.zeros(2, 2))  # as a task weighting has
    groups = parameter_groups(network, [other], config)
    placed = [p for group in groups for p in group["params"]]
    every = [*network.parameters(), other]
    assert sorted(map(id, placed)) == sorted(map(id, every))  # each in one group, once
    factors = {id(p): g["weight_decay"] / DECAY for g in groups for p in g["params"]}
    assert factors[id(other)] == 0
    return network, {name: factors[id(p)] for name, p in network.named_parameters()}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("head_decay", [2.0, 10.0])
def test_the_last_two_linear_maps_share_head_decay(head, head_decay):
    settings = {"feature_norm": "unit"} if head == "learned-unit" else {}
    _, decays = network_and_decays(head=head, head_decay=head_decay, bias=True, **settings)
    matrices = {name for name in decays if name.startswith("head.") and "weight" in name}
    assert bool(matrices) == head.startswith("learned")
    last = {"backbone.12.weight"} | matrices
    assert sum(decays[name] for name in last) == head_decay
    assert {decays[name] for name in last} == {head_decay / len(last)}
    convolutions = {f"backbone.{number}.weight" for number in (0, 4, 8)}
    assert {decays[name] for name in convolutions} == {1.0}
    assert not any(decays[name] for name in decays.keys() - last - convolutions)  # biases, norms


@pytest.mark.parametrize(("head", "share"), [("learned", 5.0), ("compound", None)])
def test_without_a_projection_a_learned_head_has_its_half_and_nothing_else_changes(head, share):
    network, decays = network_and_decays(
        backbone="resnet18", width=8, features=64, head=head, head_decay=10.0
    )
    assert not any(isinstance(module, nn.Linear) for module in network.backbone.modules())
    matrices = {name for name, p in network.named_parameters() if p.ndim > 1}
    assert {decays[name] for name in matrices if name.startswith("backbone.")} == {1.0}
    assert decays.get("head.weight") == share


def test_a_projection_behind_a_large_backbone_is_found():
    _, decays = network_and_decays(backbone="resnet18", width=8, features=20, head="compound")
    assert {name for name, factor in decays.items() if factor == 2.0} == {"backbone.1.weight"}


def test_the_usual_head_decay_is_that_of_ordinary_layers():
    _, decays = network_and_decays(head="learned")
    assert set(decays.values()) == {0.0, 1.0}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_optimizer_is_the_one_asked_for(name, kind):
    config = replace(TINY, optimizer=name, lr=0.125)
    network = build_network(config, load_data(config.data, config))
    optimizer = make_optimizer(network, [], config)
    assert type(optimizer) is kind
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}
    if name == "sgd":
        assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.9, True)}


def test_the_learning_rate_rises_over_a_tenth_and_falls_to_zero():
    share = warm_up_then_cosine(100)
    values = [share(step) for step in range(101)]
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert values[10] == max(values) == 1
    assert values[55] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["weight_decay", "head_decay"])
def test_negative_decay_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=-1.0: must not be negative"):
        replace(TINY, **{name: -1.0})
