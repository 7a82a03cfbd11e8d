"""The losses of --loss, against the same of cosines written out, and what they go with."""

import math
from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY
from torch.nn import functional as F

from etf_heads.heads import LinearHead
from recipes.data import load_data
from recipes.data.images import ImageData, ImageSet
from recipes.training.building import build_network, head_request
from recipes.training.engine import train
from recipes.training.heads import HEADS
from recipes.training.loss import make_loss, mean_cross_entropies, summed_pick_all_labels
from recipes.training.unit_rows import UnitRows

pytestmark = pytest.mark.recipes
SPHERE = {"feature_norm": "unit"}
COSINES = ("normalized", "ntce", "nonl")
TEMPERATURE = 0.3


def made(head, loss):
    """A head for the two-digit images, features, labels, and what the loss of settings says."""
    config = replace(TINY, head=head, loss=loss, temperature=TEMPERATURE, **SPHERE)
    data = load_data(config.data, config)
    module = HEADS[head](head_request(config, data))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, config.features, generator=generator)
    labels = torch.randint(10, (40, 2), generator=generator)
    labels[::7, 1] = -100
    return module, features, labels, make_loss(config, data)(features, module, labels)


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
        data = load_data(config.data, config)
        longer = make_loss(config, data)(7 * features, module, labels)  # of directions alone
        torch.testing.assert_close(longer, found)
        other = make_loss(replace(config, temperature=1.0), data)(features, module, labels)
        assert not torch.allclose(other, found)


def test_cross_entropy_is_of_logits():
    config = replace(TINY, head="learned")
    data = load_data(config.data, config)
    network = build_network(config, data)
    labels = data.train.labels[:50].clone()
    labels[::3, 0] = -100
    features = network.features(data.train.images[:50])
    expected = mean_cross_entropies(network.head(features), labels)
    torch.testing.assert_close(make_loss(config, data)(features, network.head, labels), expected)


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


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.25, -2.0], [1.0, 1.0, 1.0], [-1.0, 0.0, 3.0]])
LABELS = torch.tensor([0, 2, 1, -100])


def _smoothed(z, y, share):
    return F.cross_entropy(z, y, label_smoothing=share)


def _focal(z, y, gamma):
    p = z.softmax(1).gather(1, y[:, None])
    return -((1 - p) ** gamma * p.log()).mean()


def _squared(z, y, gap):
    return (z - gap * (F.one_hot(y, 3) - 1 / 3)).square().sum(1).mean() / 2


def _adjusted(z, y, tau):
    return F.cross_entropy(z + tau * (torch.tensor([6.0, 3.0, 1.0]) / 10).log(), y)


@pytest.mark.parametrize(
    ("loss", "written_out", "by_default", "other"),
    [
        ("label-smoothing", _smoothed, 0.1, 0.3),
        ("focal", _focal, 2.0, 3.0),
        ("squared-error", _squared, 1.0, 5.0),
        ("logit-adjusted", _adjusted, 1.0, 0.5),
    ],
)
def test_losses_of_logits_are_those_written_out(loss, written_out, by_default, other):
    """Of a task alone, whose labels have the frequencies 6, 3 and 1."""
    images = ImageSet(
        torch.zeros(10, 1, 2, 2, dtype=torch.uint8),
        torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]]).T,
    )
    data = ImageData({"kind": 3}, train=images, test=images, shift=0)
    head = LinearHead(3, {"kind": 3})
    with torch.no_grad():
        head.weight.copy_(torch.eye(3))
        head.bias.zero_()
    for given, number in ((None, by_default), (other, other)):
        criterion = make_loss(replace(TINY, loss=loss, loss_parameter=given), data)
        found = criterion(LOGITS, head, LABELS[:, None])
        torch.testing.assert_close(found, written_out(LOGITS[:3], LABELS[:3], number)[None])


@pytest.mark.parametrize("loss", ["cross-entropy", "ntce"])
def test_a_loss_without_a_number_refuses_one(loss):
    with pytest.raises(ValueError, match=r"loss_parameter=2.0: loss=.* has none; .*focal"):
        replace(TINY, loss=loss, loss_parameter=2.0, **SPHERE)


@pytest.mark.parametrize(("head", "loss"), [("nearest", "focal"), ("nearest-gradient", "ntce")])
def test_heads_that_observe_labels_have_no_other_losses_of_logits(head, loss):
    config = replace(TINY, head=head, loss=loss, **SPHERE)
    with pytest.raises(ValueError, match=r"head='nearest.*' observes labels .* another head"):
        build_network(config, load_data(config.data, config))


@pytest.mark.parametrize("loss", COSINES)
@pytest.mark.parametrize("head", ["class-mean", "prototypes", "nearest"])
def test_heads_that_observe_take_the_loss_that_was_asked_for(head, loss):
    config = replace(TINY, head=head, loss=loss, temperature=TEMPERATURE, **SPHERE)
    data = load_data(config.data, config)
    network = build_network(config, data)
    images, labels = data.train.images[::50], data.train.labels[::50]
    found = network(images, labels)
    assert int(network.head.running.updates) == 1  # observed, and before the loss
    expected = make_loss(config, data)(network.features(images), network.head, labels)
    torch.testing.assert_close(found, expected)
    network.eval()(images, labels)
    assert int(network.head.running.updates) == 1


@pytest.mark.parametrize(
    ("data", "loss"), [("label-sets-digits", "cross-entropy"), ("digits", "pick-all-labels")]
)
def test_label_sets_go_with_their_loss(data, loss):
    config = replace(TINY, data=data, loss=loss, train_images=None, test_images=None)
    with pytest.raises(ValueError, match=f"loss='{loss}' with data='{data}': .* go together"):
        build_network(config, load_data(data, config))


def test_label_sets_have_the_cross_entropy_of_every_label():
    base = {"data": "label-sets-digits", "loss": "pick-all-labels"}
    config = replace(TINY, head="learned", train_images=None, test_images=None, **base)
    data = load_data(config.data, config)
    network = build_network(config, data).eval()
    chosen = torch.tensor([0, 1, 3100, 5799])  # two images of one label, two of two
    images, sets = data.train.images[chosen], data.train.labels[chosen]
    logits = network(images)["digit"]
    rows, labels = sets.nonzero().unbind(1)
    each = F.cross_entropy(logits[rows], labels, reduction="sum")
    torch.testing.assert_close(network(images, sets), each[None] / 4)
    torch.testing.assert_close(summed_pick_all_labels(logits, sets), each)
    for given in ({"head": "spherical", "features": 4, "assign": (0.0,)}, {"align": 0.5}):
        with pytest.raises(ValueError, match="goes by single labels, not by sets"):
            build_network(replace(config, **given), data)


def test_features_are_drawn_to_the_centres_of_their_class():
    config = replace(TINY, head="multi-centre", loss="centre-cosine", data="digits", features=40)
    config = replace(config, train_images=400, test_images=200, imbalance=4.0)
    data = load_data(config.data, config)
    network = build_network(config, data).eval()
    images, labels = data.train.images[:20], data.train.labels[:20]
    features = F.normalize(network.head.norm(network.features(images)))
    code, basis = network.head.code.base, network.head.orientation
    first = [sum(code.centres[:k]) for k in range(10)]
    every = basis.lift(code.centre_vectors(dtype=torch.float32))
    expected = torch.zeros(20)
    for i, k in enumerate(labels[:, 0].tolist()):
        own = every[first[k] : first[k] + code.centres[k]]
        expected[i] = ((own @ features[i] - 1) ** 2 / 2).mean()
    torch.testing.assert_close(network(images, labels), expected.mean()[None])
