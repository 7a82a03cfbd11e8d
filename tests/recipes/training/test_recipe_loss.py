"""The losses of --loss, against the same of cosines written out, and what they go with."""

import math
from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY
from torch.nn import functional as F

from recipes.data import load_data
from recipes.training.building import build_network, head_request
from recipes.training.engine import train
from recipes.training.heads import HEADS
from recipes.training.loss import make_loss, mean_cross_entropies
from recipes.training.unit_rows import UnitRows

pytestmark = pytest.mark.recipes
SPHERE = {"feature_norm": "unit"}
COSINES = ("normalized", "ntce", "nonl")
TEMPERATURE = 0.3


def made(head, loss):
    """A head for the two-digit images, features, labels, and what the loss of settings says."""
    config = replace(TINY, head=head, loss=loss, temperature=TEMPERATURE, **SPHERE)
    module = HEADS[head](head_request(config, load_data(config.data, config)))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, config.features, generator=generator)
    labels = torch.randint(10, (40, 2), generator=generator)
    labels[::7, 1] = -100
    return module, features, labels, make_loss(config)(features, module, labels)


def of_each_task(module, features, labels, each):
    """(T,): a function of cosines (B, K) and labels (B,), of the labelled rows of each task."""
    cosines = F.normalize(features) @ F.normalize(module.weight).T
    return torch.stack(
        [
            each(own[column >= 0] / TEMPERATURE, column[column >= 0])
            for own, column in zip(cosines.split([10, 10], 1), labels.unbind(1), strict=True)
        ]
    )


@pytest.mark.parametrize("head", ["learned-unit", "learned", "compound"])
def test_normalized_is_the_cross_entropy_of_cosines(head):
    module, features, labels, found = made(head, "normalized")
    expected = of_each_task(module, features, labels, F.cross_entropy)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("head", ["learned-unit", "compound"])
def test_contrastive_losses_are_a_mean_a_task(head):
    for loss in ("ntce", "nonl"):
        module, features, labels, found = made(head, loss)
        assert found.shape == (2,)
        assert found.isfinite().all()
        config = replace(TINY, loss=loss, temperature=TEMPERATURE, **SPHERE)
        longer = make_loss(config)(7 * features, module, labels)  # of directions alone
        torch.testing.assert_close(longer, found)
        other = make_loss(replace(config, temperature=1.0))(features, module, labels)
        assert not torch.allclose(other, found)


def test_cross_entropy_is_of_logits():
    config = replace(TINY, head="learned")
    data = load_data(config.data, config)
    network = build_network(config, data)
    labels = data.train.labels[:50].clone()
    labels[::3, 0] = -100
    features = network.features(data.train.images[:50])
    expected = mean_cross_entropies(network.head(features), labels)
    torch.testing.assert_close(make_loss(config)(features, network.head, labels), expected)


@pytest.mark.parametrize("loss", COSINES)
@pytest.mark.parametrize("norm", [None, "batch", "layer"])
def test_losses_of_cosines_go_with_features_of_unit_length(loss, norm):
    with pytest.raises(ValueError, match=f"loss='{loss}' is of .* goes with feature_norm=unit"):
        replace(TINY, loss=loss, feature_norm=norm)


@pytest.mark.parametrize("settings", [{"weighting": "mgda"}, {"warm_up_logits": 1}])
def test_losses_of_cosines_refuse_what_is_done_to_logits(settings):
    with pytest.raises(ValueError, match="goes with weighting=equal and without warm_up_logits"):
        replace(TINY, loss="nonl", **SPHERE, **settings)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperatures_are_above_0(temperature):
    with pytest.raises(ValueError, match=r"temperature=.*: must be above 0"):
        replace(TINY, temperature=temperature)


def test_learned_unit_rows_have_one_length_and_learn_their_directions():
    config = replace(TINY, head="learned-unit", scale=3.0, **SPHERE)
    head = HEADS["learned-unit"](head_request(config, load_data(config.data, config)))
    torch.testing.assert_close(head.weight.norm(dim=1), torch.full((20,), 3.0))
    ((name, parameter),) = head.named_parameters()  # directions, and no bias
    assert parameter.shape == (20, config.features), name
    features = torch.randn(6, config.features)
    logits = torch.cat(list(head(features).values()), 1)
    expected = 3 * F.normalize(features) @ F.normalize(parameter).T
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    assert parameter.grad.abs().sum() > 0
    along = (parameter.grad * parameter).sum(1)  # the length has no effect, so no gradient
    torch.testing.assert_close(along, torch.zeros(20), atol=1e-4, rtol=0)


def test_unit_rows_have_exact_gradients():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(UnitRows(2.0), weight)


@pytest.mark.parametrize("loss", COSINES)
@pytest.mark.parametrize("head", ["learned-unit", "compound"])
def test_networks_learn_by_losses_of_cosines(loss, head, tmp_path):
    config = replace(TINY, head=head, loss=loss, epochs=1, checkpoint_every=0, **SPHERE)
    before, after = train(replace(config, output=tmp_path / "run")).history
    assert after.train.loss < before.train.loss
    assert after.train.accuracy["left"] > 0.2  # of ten classes
