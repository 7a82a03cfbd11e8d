"""Class vectors assigned to classes in the course of a run."""

from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY, kill_in_mid_epoch
from torch.nn import functional as F

from etf_heads.codes import AssignedCode
from recipes.data import load_data
from recipes.training import assignment
from recipes.training.assignment import Assignment, align, class_means, unit
from recipes.training.building import build_network, head_request
from recipes.training.engine import train
from recipes.training.heads import HEADS
from recipes.training.settings import RunConfig

pytestmark = pytest.mark.recipes
CODE = replace(
    TINY, head="spherical", features=4, feature_norm="unit", scale=16.0, train_images=2_000
)
"""Twenty classes in four dimensions."""


def test_classes_get_the_vectors_near_their_means():
    config = replace(CODE, assign=(0.0, 0.5))
    data = load_data(config.data, config)
    network = build_network(config, data)
    steps = Assignment(config, steps_per_epoch=4)
    steps.before_step(1, network, data.train)
    assert not isinstance(network.head.code, AssignedCode)
    before = network.head.weight.clone()
    steps.before_step(2, network, data.train)
    assert isinstance(network.head.code, AssignedCode)
    assert network.training
    means = class_means(network, data.train, unit)

    def likeness(weight):
        centred = torch.cat([own - own.mean(0) for own in F.normalize(means).split(10)])
        return float((centred * weight).sum())

    assert likeness(network.head.weight) > likeness(before)


def test_class_means_are_of_images_that_are_not_augmented():
    data = load_data(CODE.data, CODE)
    network = build_network(CODE, data).eval()
    with torch.no_grad():
        features = F.normalize(network.features(data.train.images), dim=1)
    found = F.normalize(class_means(network, data.train, unit), dim=1)
    for task, column in enumerate(data.train.labels.unbind(1)):
        own = torch.stack([features[column == k].mean(0) for k in range(10)])
        expected = F.normalize(own, dim=1)
        torch.testing.assert_close(found[10 * task : 10 * task + 10], expected)


def test_each_step_assigns_once_whatever_its_parts(monkeypatch, tmp_path):
    steps = []
    monkeypatch.setattr(assignment, "assign_classes", lambda *_, **__: steps.append(0))
    settings = {"assign": (0.0, 0.5), "epochs": 1, "gradient_accumulation": 2}
    train(replace(CODE, **settings, checkpoint_every=0, output=tmp_path / "code"))
    assert len(steps) == 2
    train(replace(CODE, **settings, head="learned", checkpoint_every=0, output=tmp_path / "other"))
    assert len(steps) == 2  # learned class vectors belong to their classes


def test_a_run_resumes_with_its_assignment(tmp_path):
    settings = {"epochs": 1, "batch_size": 150, "checkpoint_every": 3, "assign": (0.0, 0.3)}
    kill_in_mid_epoch(replace(CODE, **settings), tmp_path)


def test_a_choice_is_made_out_of_all_vectors_of_the_code():
    data = load_data(CODE.data, CODE)
    tasks = {"all": 100}
    request = replace(head_request(CODE, data), tasks=tasks, features=16)
    head = HEADS["spherical-chosen"](request)
    plain = HEADS["spherical"](replace(request, tasks={"all": 120}))
    assert isinstance(head.code, AssignedCode)
    assert head.code.base.rows == 16 * 18
    assert torch.equal(head.weight, plain.weight[:100])  # until they are assigned


def test_epochs_that_a_run_does_not_have_are_refused():
    for wrong in ((-1.0,), (0.0, 2.0)):
        with pytest.raises(ValueError, match=r"assign=.*: epochs from 0 to below 2 are needed"):
            replace(CODE, assign=wrong)
    assert isinstance(replace(CODE, assign=(1.9,)), RunConfig)


@pytest.mark.parametrize("head", ["learned", "learned-norm"])
def test_learned_class_vectors_turn_to_the_means_of_the_features_that_they_meet(head):
    config = replace(TINY, head=head, feature_norm="layer")
    data = load_data(config.data, config)
    network = build_network(config, data)
    means = class_means(network, data.train, network.head.prepare).split(10)
    centres = [own.mean(0) for own in network.head.weight.detach().clone().split(10)]

    def angles():
        vectors = network.head.weight.detach().split(10)
        cosines = [
            F.cosine_similarity(own - centre, mean - mean.mean(0))
            for own, centre, mean in zip(vectors, centres, means, strict=True)
        ]
        return torch.cat(cosines).acos()

    before = angles()
    align(network, data.train, 0.5)
    torch.testing.assert_close(angles(), before / 2)
    assert network.training


@pytest.mark.parametrize("head", ["compound", "learned-unit"])
def test_other_heads_are_not_aligned(head):
    config = replace(TINY, head=head)
    network = build_network(config, load_data(config.data, config))
    before = network.head.weight.clone()
    align(network, load_data(config.data, config).train, 1.0)
    assert torch.equal(network.head.weight, before)


def test_a_run_resumes_with_its_alignment(tmp_path):
    settings = {"epochs": 2, "batch_size": 150, "checkpoint_every": 3, "align": 0.5}
    kill_in_mid_epoch(replace(TINY, head="learned", **settings), tmp_path)
