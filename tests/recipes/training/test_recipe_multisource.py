import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from data_files import write_folder
from recipe_results import scores
from recipe_runs import TINY, kill_in_mid_epoch, run
from safetensors.torch import load_file
from torch.nn import functional as F

from etf_heads import CorrelatedETFHead, NearestETFHead
from etf_heads.collapse import SingleTaskCollapse
from recipes.comparison.head_cost import HeadCost
from recipes.comparison.report import MEASURES, table, write_report
from recipes.comparison.summary import compare
from recipes.data import load_data
from recipes.data.images import NO_LABEL
from recipes.training.augmentation import Augmentation
from recipes.training.building import build_network
from recipes.training.engine import train
from recipes.training.heads import HEADS
from recipes.training.history import Epoch
from recipes.training.loss import mean_cross_entropies
from recipes.training.measure import measure
from recipes.training.network import Network
from recipes.training.result import RunResult, terminal_epoch

pytestmark = pytest.mark.recipes


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two tasks of three and two classes, each with images of its own; 20 steps an epoch."""
    root = tmp_path_factory.mktemp("folder")
    write_folder(root, dict.fromkeys("abcde", 40), dict.fromkeys("abcde", 8))
    (root / "tasks.json").write_text('{"first": ["a", "c", "e"], "second": ["b", "d"]}')
    settings = {"data": "image-folder", "root": root, "tasks": root / "tasks.json"}
    return replace(TINY, **settings, batch_size=10, lr=3e-3)


def batch(config):
    data = load_data(config.data, config)
    return data, data.train.images[::7], data.train.labels[::7]


def test_the_loss_is_the_mean_over_the_labelled_images_of_each_task():
    logits = {"a": torch.randn(6, 3), "b": torch.randn(6, 4)}
    labels = torch.tensor([[0, -1], [2, -1], [-1, 3], [1, 0], [-1, -1], [2, -1]])
    labels = labels.where(labels >= 0, NO_LABEL)
    first, second = labels[:, 0] >= 0, labels[:, 1] >= 0
    expected = F.cross_entropy(logits["a"][first], labels[first, 0])
    expected += F.cross_entropy(logits["b"][second], labels[second, 1])
    torch.testing.assert_close(mean_cross_entropies(logits, labels).sum(), expected)


def test_a_task_without_labels_adds_no_loss_and_no_gradient():
    logits = {"a": torch.randn(4, 3, requires_grad=True), "b": torch.randn(4, 2)}
    labels = torch.tensor([[NO_LABEL, 0], [NO_LABEL, 1], [NO_LABEL, 1], [NO_LABEL, 0]])
    loss = mean_cross_entropies(logits, labels).sum()
    torch.testing.assert_close(loss, F.cross_entropy(logits["b"], labels[:, 1]))
    loss.backward()
    assert torch.equal(logits["a"].grad, torch.zeros(4, 3))


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_the_loss_of_its_logits(config, name):
    data, images, labels = batch(config)
    network = build_network(replace(config, head=name), data).eval()
    found = network(images, labels)
    logits = network.features_and_logits(images)[1]
    torch.testing.assert_close(found, mean_cross_entropies(logits, labels))


def test_measures_are_those_of_each_task_on_its_own_images(config):
    data = load_data(config.data, config)
    torch.manual_seed(0)
    network = build_network(replace(config, head="learned-norm"), data)
    row = measure(Accelerator(cpu=True), network, data)
    network.eval()
    with torch.inference_mode():
        features, logits = network.features_and_logits(data.train.images)
    loss = 0.0
    for column, (task, classes) in enumerate(data.tasks.items()):
        own = data.train.labels[:, column] >= 0
        labels = data.train.labels[own, column]
        accuracy = (logits[task][own].argmax(1) == labels).double().mean().item()
        assert row.train.accuracy[task] == pytest.approx(accuracy)
        loss += F.cross_entropy(logits[task][own], labels).item()
        alone = SingleTaskCollapse(features.shape[1], classes)
        alone.update(features[own], labels)
        start = 0 if column == 0 else 3
        weight = network.head.weight.detach()[start : start + classes]
        expected = alone.compute(weight)
        means = torch.stack([features[own][labels == k].mean(0) for k in range(classes)])
        directions = [F.normalize(of - of.mean(0), dim=1) for of in (means, weight)]
        expected["nc3"] = float((directions[0] - directions[1]).square().sum(1).mean())
        for name, value in expected.items():
            if f"m_{name}/{task}" in row.collapse:
                assert row.collapse[f"m_{name}/{task}"] == pytest.approx(value, abs=1e-5)
    assert row.train.samples == 200
    assert row.train.loss == pytest.approx(loss, rel=1e-5)
    assert not [name for name in row.collapse if name.startswith("s_nc")]
    assert {"m_nc1_ratio", "m_nc3", "m_nc4", "m_nc4/second"} <= set(row.collapse)


# One of each class; what they learn by is tested in test_recipe_heads.py.
@pytest.mark.parametrize(
    "name", ["learned", "compound", "correlated", "nearest", "class-mean", "spherical"]
)
def test_every_kind_of_head_trains_on_tasks_with_their_own_samples(config, name, tmp_path):
    settings = {
        "head": name,
        "batch_size": 40,
        "epochs": 4,
        "checkpoint_every": 0,
        "output": tmp_path / "run",
    }
    history = train(replace(config, **settings)).history
    assert [row.epoch for row in history] == [0, 1, 2, 3, 4]
    assert history[4].train.loss < history[0].train.loss
    assert all(math.isfinite(v) for v in history[4].collapse.values())
    assert set(history[4].test.accuracy) == {"first", "second"}


def test_fixed_heads_let_tasks_share_dimensions(config):
    data = load_data(config.data, config)
    narrow = replace(config, features=2)  # two tasks on the same images would need three
    for name in ("compound", "correlated", "nearest"):
        frame = build_network(replace(narrow, head=name), data).head.weight
        cosines = frame[:3] @ frame[:3].T
        torch.testing.assert_close(cosines, 1.5 * torch.eye(3) - 0.5, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["compound", "nearest"])
def test_biases_are_those_of_all_tasks(config, name):
    data = load_data(config.data, config)
    assert build_network(replace(config, head=name), data).head.bias is None
    assert build_network(replace(config, head=name, bias=True), data).head.bias.shape == (5,)


def test_the_correlated_head_is_the_optimum_of_each_task_alone(config):
    skewed = replace(config, head="correlated", imbalance=5)
    data = load_data(skewed.data, skewed)
    frame = build_network(skewed, data).head.weight
    for column, rows in ((0, slice(0, 3)), (1, slice(3, 5))):
        labels = data.train.labels[:, column]
        counts = labels[labels >= 0].bincount()
        expected = CorrelatedETFHead(20, [len(counts)], counts).weight
        torch.testing.assert_close(frame[rows] @ frame[rows].T, expected @ expected.T)
    assert (frame[:3] @ frame[3:].T).abs().max() < 0.9  # no vector is shared


def test_the_nearest_head_observes_each_task_on_its_own_images(config):
    data, images, labels = batch(config)
    network = build_network(replace(config, head="nearest"), data).train()
    columns = dict(zip(data.tasks, labels.T, strict=True))
    logits = network.head(network.features(images), columns)
    with torch.no_grad():
        features = network.head.norm.train()(network.backbone(network.standardise(images)))
    for column, task in enumerate(data.tasks):
        own = labels[:, column] >= 0
        alone = NearestETFHead(20, data.tasks[task]).train()
        expected = alone(features[own], labels[own, column])
        found = network.head.heads[column].weight
        torch.testing.assert_close(found, alone.weight, atol=1e-4, rtol=0)
        torch.testing.assert_close(logits[task][own], expected, atol=1e-3, rtol=0)
        assert not logits[task][~own].any()


def test_half_of_the_images_are_mirrored():
    images = torch.arange(200 * 2 * 3 * 4).reshape(200, 2, 3, 4).to(torch.uint8)
    augment = Augmentation(200, 0, flip=True, seed=0, device=torch.device("cpu"))
    augment.start_epoch(1)
    once = augment(images, torch.arange(200))
    kept = (once == images).flatten(1).all(1)
    mirrored = (once == images[..., [3, 2, 1, 0]]).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 70 < kept.sum() < 130


def test_a_run_without_augmentation_sees_the_images_as_they_are(config, monkeypatch, tmp_path):
    data = load_data(config.data, config)
    known, seen = {bytes(i.flatten().tolist()) for i in data.train.images}, []
    forward = Network.forward

    def spy(network, images, labels):
        seen.extend(bytes(i.flatten().tolist()) for i in images)
        return forward(network, images, labels)

    monkeypatch.setattr(Network, "forward", spy)
    once = replace(config, epochs=1, checkpoint_every=0)
    train(replace(once, augment=False, output=tmp_path / "plain"))
    assert set(seen) == known
    seen.clear()
    train(replace(once, output=tmp_path / "augmented"))
    assert len(set(seen) - known) > 100


@pytest.mark.parametrize("head", ["learned", "nearest"])
def test_a_killed_run_with_mirrored_images_ends_with_the_same_metrics(config, head, tmp_path):
    kill_in_mid_epoch(replace(config, head=head, epochs=1), tmp_path)


def test_two_processes_measure_tasks_with_their_own_samples_as_one_does(config, tmp_path):
    settings = replace(config, head="nearest", epochs=1, checkpoint_every=0)
    one, two = (replace(settings, output=tmp_path / name) for name in ("one", "two"))
    assert run(one) == [0]
    assert run(two, processes=2) == [0, 0]
    (alone, _), (together, trained) = (RunResult.read(c.run_dir).history for c in (one, two))
    for both, one in ((together.train, alone.train), (together.test, alone.test)):
        assert both.samples == one.samples
        assert both.loss == pytest.approx(one.loss)
        assert both.accuracy == pytest.approx(one.accuracy)
    assert together.collapse == pytest.approx(alone.collapse, rel=1e-4, abs=1e-6)
    assert trained.train.loss < together.train.loss


def test_two_processes_take_the_steps_of_one(config, tmp_path):
    """Without statistics of batches; labels are missing, and images shifted and mirrored."""
    settings = replace(config, backbone="cnn-image-by-image", feature_norm=None, epochs=1)
    one, two = (replace(settings, output=tmp_path / name) for name in ("one", "two"))
    assert run(one) == [0]
    assert run(two, processes=2) == [0, 0]
    alone, together = (load_file(c.run_dir / "model.safetensors") for c in (one, two))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-4)


def test_the_report_shows_the_measures_that_the_runs_have(config, tmp_path):
    heads = ("learned", "compound")
    runs = [
        train(replace(config, head=h, epochs=1, checkpoint_every=0, output=tmp_path / h))
        for h in heads
    ]
    summary = compare(runs, "learned", {h: HeadCost(1e-3, 0.0, 1) for h in heads})
    titles = [line[0] for line in table(summary)]
    for name, (title, _) in MEASURES.items():
        assert (f"{title}, start → end" in titles) == name.startswith("m_")
    write_report(summary, tmp_path / "report.html")
    assert "tasks with samples of their own" in (tmp_path / "report.html").read_text()
    # As of more class vectors than one can look at.
    heads = {name: replace(head, gram=None) for name, head in summary.heads.items()}
    write_report(replace(summary, heads=heads), tmp_path / "report.html")
    assert "tasks with samples of their own" not in (tmp_path / "report.html").read_text()


def test_the_terminal_phase_begins_when_all_tasks_are_right(config, tmp_path):
    rows = [
        Epoch(e, 0.0, scores(a=a, b=1.0), scores(a=0.5, b=0.5), {})
        for e, a in enumerate((0.5, 0.99, 1.0, 0.98, 1.0))
    ]
    assert terminal_epoch(rows) == 2
    assert terminal_epoch(rows[:2]) is None
    result = train(replace(config, epochs=0, output=tmp_path / "run"))
    assert result.terminal_epoch is None
    assert RunResult.read(tmp_path / "run") == result
