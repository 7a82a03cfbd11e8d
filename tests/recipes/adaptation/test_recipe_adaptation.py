"""Pretraining and adaptation: images, settings, the loop, what is tuned and what is measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import write_mnist
from safetensors.torch import load_file

from etf_heads.heads import ClassMeanHead
from recipes.adaptation import images as pairs
from recipes.adaptation import runs
from recipes.adaptation.images import SUPERCLASSES, Transfer, draw, load_transfer
from recipes.adaptation.runs import adapt, adapted_network, make_network, pretrain
from recipes.adaptation.settings import ALL, HEAD, Adaptation, Pretraining, Schedule
from recipes.data.images import ImageData, ImageSet
from recipes.data.options import DataOptions
from recipes.training import one_process

pytestmark = pytest.mark.recipes


def spots(classes, each, seed, side=8):
    """Noise with a bright spot whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(each)
    images = torch.randint(0, 40, (len(labels), 1, side, side), generator=generator)
    images[torch.arange(len(labels)), 0, labels // side, labels % side] = 255
    return ImageSet(images.byte(), labels[:, None])


def _spot_transfer(options, seed):  # noqa: ARG001
    source = ImageData({"place": 3}, spots(3, 20, seed), spots(3, 10, 99), shift=0)
    target = ImageData({"digit": 4}, spots(4, 10, seed + 1), spots(4, 10, 98), shift=1, flip=True)
    return Transfer(source, target, spots(4, 5, 97), spots(4, 5, 96))


@pytest.fixture(autouse=True)
def _spots(monkeypatch):
    monkeypatch.setitem(pairs.TRANSFERS, "spots", _spot_transfer)
    load_transfer.cache_clear()


def pretraining(tmp_path, **settings):
    start = Pretraining(
        images="spots",
        backbone="mlp3-no-norm",
        width=16,
        features=16,
        schedule=Schedule(epochs=4, lr=0.05, batch_size=15),
        checkpoints=(1,),
        layers=("backbone.1", "backbone.3"),
        output=tmp_path / "pretraining",
    )
    return replace(start, **settings)


def adaptation(tmp_path, **settings):
    source = settings.pop("source", None) or pretraining(tmp_path)
    start = Adaptation(
        source=source,
        schedule=Schedule(epochs=20, lr=1.0, batch_size=10),
        rates=(1e-5, 0.05),
        output=tmp_path / "run",
    )
    return replace(start, **settings)


def test_sets_that_are_drawn_are_disjoint_balanced_and_of_the_seed():
    images = spots(5, 12, seed=0)
    one, two = draw(images, (4, 1), (3, 6), seed=1)
    assert one.labels[:, 0].bincount().tolist() == [3, 3]
    assert two.labels[:, 0].bincount().tolist() == [6, 6]
    rows = {image.numpy().tobytes() for part in (one, two) for image in part.images}
    assert len(rows) == 18
    assert all(image[0, 0, 4] == 255 for image in one.images[one.labels[:, 0] == 0])
    again, other = (draw(images, (4, 1), (3, 6), seed=s)[0].images for s in (1, 2))
    assert torch.equal(again, one.images)
    assert not torch.equal(other, one.images)
    with pytest.raises(ValueError, match="class 4 has 12 images and 13 are needed"):
        draw(images, (4,), (13,), seed=0)


def numbered(each, seed):
    """MNIST with so many pictures of each digit, whose first pixel is the digit."""
    labels = np.repeat(np.arange(10, dtype=np.uint8), each)
    images = np.random.default_rng(seed).integers(0, 200, (len(labels), 28, 28), dtype=np.uint8)
    images[:, :2, :2] = 20 * labels[:, None, None]
    return images, labels


def test_parity_and_digits_are_of_the_same_images(tmp_path):
    write_mnist(tmp_path, numbered(220, 0), numbered(420, 1))
    options = DataOptions(root=tmp_path)
    parity, digit = (load_transfer(name, options, 3) for name in ("parity", "digit"))
    assert torch.equal(parity.source.train.images, digit.source.train.images)
    assert torch.equal(parity.source.train.labels, digit.source.train.labels % 2)
    assert parity.source.tasks == {"parity": 2}
    assert [len(p) for p in (digit.source.train, digit.target.train, digit.held_out)] == [
        1000,
        500,
        500,
    ]
    rows = [
        image.numpy().tobytes()
        for part in (digit.source.train, digit.target.train, digit.held_out)
        for image in part.images
    ]
    assert len(set(rows)) == 2000
    assert torch.equal(digit.target.train.images[:, 0, 0, 0], 20 * digit.target.train.labels[:, 0])


def test_shifted_digits_are_of_other_classes_than_the_pretraining(tmp_path):
    write_mnist(tmp_path, numbered(220, 0), numbered(420, 1))
    found = load_transfer("shifted-digits", DataOptions(root=tmp_path), 0)
    shape = (1, pairs.SIDE, pairs.SIDE)
    for part in (found.source.train, found.target.train, found.target.test, found.shifted):
        assert part.images.shape[1:] == shape
        assert part.labels.unique().tolist() == [0, 1, 2, 3, 4]
    pixels = found.target.train.images[:, 0, 0, 0].long()
    assert torch.equal(pixels, 20 * found.target.train.labels[:, 0])
    written = found.source.train.images[:750, 0, 0, 0].long()
    assert torch.equal(written, 20 * (5 + found.source.train.labels[:750, 0]))


def test_superclasses_have_five_classes_each():
    assert np.bincount(SUPERCLASSES).tolist() == [5] * 20


def test_settings_that_cannot_be(tmp_path):
    run = adaptation(tmp_path)
    for message, change in (
        ("epochs=0: at least 1", lambda: Schedule(epochs=0, lr=1.0)),
        ("lr=0: must be above 0", lambda: Schedule(epochs=1, lr=0)),
        ("images='no'.*parity", lambda: replace(run.source, images="no")),
        ("checkpoints=\\(9,\\): epochs from 1 to 4", lambda: replace(run.source, checkpoints=(9,))),
        ("head='no'.*learned", lambda: replace(run, head="no")),
        ("rates=\\(\\)", lambda: replace(run, rates=())),
        ("seed=1: the pretraining has 0", lambda: replace(run, seed=1)),
        ("checkpoint=3.*1, 4", lambda: replace(run, checkpoint=3)),
        ("skip=True with part='all'", lambda: replace(run, skip=True)),
    ):
        with pytest.raises(ValueError, match=message):
            change()


def test_pretraining_keeps_its_checkpoints(tmp_path):
    run = pretraining(tmp_path)
    result = pretrain(run)
    assert [row.epoch for row in result.history] == [1, 4]
    assert result.history[-1].train.loss < result.history[0].train.loss
    early, late = (load_file(run.weights(epoch)) for epoch in (1, 4))
    assert not torch.equal(early["backbone.1.0.weight"], late["backbone.1.0.weight"])
    collapse = result.history[-1].collapse
    assert collapse["variance"] == pytest.approx(collapse["backbone.3"], rel=1e-6)  # the features
    assert collapse["backbone.1"] > 0
    written = run.weights(4).stat().st_mtime_ns
    assert pretrain(run) == result  # read, not trained
    assert run.weights(4).stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="width: 16 -> 8"):
        pretrain(replace(run, width=8))


def test_adaptation_takes_the_rate_that_is_best_on_images_held_out(tmp_path):
    result = adapt(adaptation(tmp_path))
    first, last = result.history
    assert last.collapse["lr"] == 0.05
    assert last.train.mean_accuracy > max(0.9, first.train.mean_accuracy)
    assert last.collapse["held_out"] > 0.9
    assert last.collapse["shifted"] > 0.9
    assert last.collapse["tuned_share"] == 1
    assert set(result.tasks) == {"digit"}
    source = pretrain(pretraining(tmp_path)).history[-1]
    assert first.collapse["source_loss"] == source.train.loss
    assert first.collapse["source_backbone.1"] == source.collapse["backbone.1"]
    worse = adapt(adaptation(tmp_path, rates=(1e-5,), output=tmp_path / "worse"))
    assert worse.history[-1].test.mean_accuracy < last.test.mean_accuracy


def test_a_diverged_rate_is_passed_over(tmp_path):
    result = adapt(adaptation(tmp_path, rates=(1e30, 0.05)))
    assert result.history[-1].collapse["lr"] == 0.05
    with pytest.raises(FloatingPointError, match="any of the learning rates"):
        adapt(adaptation(tmp_path, rates=(1e30,), output=tmp_path / "other"))


def changed(network, other):
    """Names of the weights that differ."""
    before = other.state_dict()
    return {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}


def tuned(run, data):
    """The adapted network before and after training it."""
    network = adapted_network(run, data)
    list(runs._epochs(network, data.target, run.schedule, run.seed, ""))
    return adapted_network(run, data), network


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("part", "moved"),
    [
        (HEAD, ()),
        ("backbone.0", ("backbone.0.",)),
        (ALL, ("backbone.0.", "backbone.1.", "backbone.4.")),
    ],
)
def test_only_what_is_named_is_tuned(part, moved, skip, tmp_path):
    if skip and part in (ALL, HEAD):
        pytest.skip("the connection starts at one module")
    source = pretraining(tmp_path, backbone="cnn", width=4, layers=())
    run = adaptation(tmp_path, source=source, part=part, skip=skip)
    run = replace(run, schedule=replace(run.schedule, lr=0.05, epochs=1))
    pretrain(source)
    data = load_transfer("spots", source.data_options, 0)
    names = changed(*reversed(tuned(run, data)))
    assert any(name.startswith("head.") for name in names)
    inside = {name for name in names if name.startswith("backbone.")}
    if part == ALL:
        assert any(name.endswith("running_mean") for name in inside)
    else:  # statistics of frozen normalisations, too, are those of the pretraining
        assert all(name.startswith(moved) for name in inside) if moved else not inside
    for place in moved:
        assert any(name.startswith(place) for name in inside)


def test_the_connection_is_in_the_features_that_are_measured(tmp_path):
    source = pretraining(tmp_path)
    pretrain(source)
    data = load_transfer("spots", source.data_options, 0)
    own = adaptation(tmp_path, source=source, part="backbone.1")
    plain, joined = (adapted_network(replace(own, skip=skip), data) for skip in (False, True))
    images = data.target.train
    _, features = runs._scores(plain, images)
    _, sums = runs._scores(joined, images)
    layer = plain.backbone[:2](plain.standardise(images.images))
    torch.testing.assert_close(sums, features + layer)


def test_networks_of_a_seed_start_alike_and_see_the_same_batches(tmp_path, monkeypatch):
    source = pretraining(tmp_path)
    pretrain(source)
    data = load_transfer("spots", source.data_options, 0)
    seen = []
    original = runs._loss

    def recorded(network, images, labels):
        seen.append(images)
        return original(network, images, labels)

    monkeypatch.setattr(runs, "_loss", recorded)
    schedule = Schedule(epochs=2, lr=0.01, augment=True)
    for head, norm in (("learned", None), ("compound", "unit"), ("prototypes", "unit")):
        run = adaptation(tmp_path, source=source, head=head, feature_norm=norm, scale=4.0)
        network = adapted_network(run, data)
        assert changed(network.backbone, make_network(source, data).backbone)
        list(runs._epochs(network, data.target, schedule, 0, ""))
        if head == "prototypes":
            assert isinstance(network.head, ClassMeanHead)
            assert network.head.weight.norm(dim=1).tolist() == pytest.approx([4.0] * 4)
    first, *others = (torch.cat(seen[i : i + 2]) for i in range(0, len(seen), 2))
    assert all(torch.equal(first, other) for other in others)
    plain = data.target.train.images
    assert not set(map(bytes, first.flatten(1).numpy())) <= set(
        map(bytes, plain.flatten(1).numpy())
    )


def test_several_processes_are_refused(tmp_path, monkeypatch):
    class Two:
        num_processes = 2

    monkeypatch.setattr(one_process, "process_state", Two)
    with pytest.raises(ValueError, match="takes one"):
        pretrain(pretraining(tmp_path))
