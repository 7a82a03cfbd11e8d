"""Claims of separation, several centres, random labels and label sets: what decides on them."""

import pytest
import torch
from claim_evidence import criteria_of, end_at, supporting
from data_files import digits, write_mnist
from torch import nn

from etf_heads.collapse import ClassStatistics, separation_fuzziness
from recipes.claims import find_claim, multi_label, random_labels, separation
from recipes.claims.claim import Claim, Plan, Variant
from recipes.claims.evidence import gather
from recipes.claims.record import extras
from recipes.claims.request import Request
from recipes.data.images import ImageData, ImageSet
from recipes.training.network import Network

pytestmark = pytest.mark.recipes


def failing(claim, evidence):
    """Criteria that are not met."""
    return [c.statement for c in criteria_of(claim, evidence) if c.verdict != "met"]


@pytest.mark.parametrize(
    ("variant", "name", "layers"),
    [
        ("3 layers", "seen", [1.0, 1e-3, 1.1e-3, 1e-3]),  # falls at once
        ("7 layers", "seen", [10.0, 5.0, 2.5, 1.25]),  # not far enough
        ("7 layers, no batch norm", "seen", [8.0, 4.0, 2.0, 1.0]),
        ("7 layers, no ReLU", "seen", [8.0, 4.0, 2.0, 1.0]),
        (separation.PHASES, "seen", [8.0, 4.0, 4.1, 1.0]),
        (separation.PHASES, "unseen", [3.0, 2.0, 2.5, 3.9]),
        (separation.PHASES, "unseen", [9.0, 2.0, 1.9, 1.8]),
    ],
)
def test_layers_decide_on_separation(variant, name, layers):
    claim = find_claim("separation")
    evidence = supporting(claim)
    evidence[variant][0].extra[name] = layers
    found = failing(claim, evidence)
    assert len(found) == (2 if layers[-1] == 1.8 else 1), found


def test_fuzziness_is_of_the_pixels_and_after_each_layer():
    torch.manual_seed(0)
    images = torch.randint(256, (40, 1, 3, 3), dtype=torch.uint8)
    labels = (torch.arange(40) % 4)[:, None]
    blocks = [nn.Sequential(nn.Linear(9, 6), nn.ReLU()), nn.Sequential(nn.Linear(6, 5))]
    backbone = nn.Sequential(nn.Flatten(), *blocks, nn.Linear(5, 2))
    network = Network(nn.Identity(), backbone, nn.Linear(2, 4), nn.Identity(), ["digit"])
    network.features = lambda images: backbone(network.standardise(images.float()))
    found = separation.fuzziness(network, ImageSet(images, labels))
    with torch.no_grad():
        outputs = [images.float().flatten(1)]
        for block in blocks:
            outputs.append(block(outputs[-1]))
    assert found == pytest.approx(
        [
            separation_fuzziness(ClassStatistics.from_batch(output.double(), labels[:, 0]))
            for output in outputs
        ]
    )


def test_unseen_digits_are_those_left_out_of_training(tmp_path):
    write_mnist(tmp_path, digits(30, 0), digits(3, 1))
    plan = find_claim("separation").plans["reduced"]
    settings = {"epochs": 1, "train_images": 150, "test_images": 15, "batch_size": 50, "width": 20}
    of_two = {name: plan.variants[name] for name in ("3 layers", separation.PHASES)}
    claim = Claim(
        name="layers",
        title="",
        says="",
        plans={"reduced": Plan("multi-digits", {**plan.base, **settings, "features": 20}, of_two)},
        judge=lambda _: [],
        measures=(),
        examine=separation.examine,
    )
    evidence = gather(claim, Request(output=tmp_path / "runs", seeds=(0,), root=tmp_path)).evidence
    (whole,), (half,) = (extras(own, separation.Layers) for own in evidence.values())
    assert (len(whole.seen), len(whole.unseen)) == (4, 0)
    assert len(half.seen) == len(half.unseen) == 8
    assert half.seen != half.unseen


@pytest.mark.parametrize(
    ("other", "accuracy"),
    [("one centre", 0.861), ("cross-entropy", 0.881), ("logit adjustment", 0.891)],
)
def test_accuracy_decides_on_several_centres(other, accuracy):
    claim = find_claim("multi-centre")
    evidence = supporting(claim)
    end_at(evidence[other][0], accuracy)
    assert len(failing(claim, evidence)) == 1


@pytest.mark.parametrize(
    ("variant", "nc1", "fails"),
    [
        ("random labels, 256 units, 120 epochs", 0.06, 2),  # neither narrower nor sooner
        ("random pixels, 256 units, 120 epochs", 0.06, 1),
        ("random labels, 64 units, 30 epochs", 0.06, 1),
    ],
)
def test_nc1_decides_on_random_labels(variant, nc1, fails):
    claim = find_claim("random-labels")
    evidence = supporting(claim)
    evidence[variant][0].history[-1].collapse["m_nc1"] = nc1
    assert len(failing(claim, evidence)) == fails


@pytest.mark.parametrize(
    ("variant", "fails"),
    [
        ("random labels, 64 units, 120 epochs", 1),
        ("random pixels, 256 units, 120 epochs", 1),
        ("random labels, 16 units, 120 epochs", 0),
        (random_labels.NARROW, 1),
    ],
)
def test_accuracy_decides_on_random_labels(variant, fails):
    claim = find_claim("random-labels")
    evidence = supporting(claim)
    record = evidence[variant][0]
    end_at(record, 0.9649)
    record.history[-1] = record.history[-1].__class__(
        **{**vars(record.history[-1]), "train": record.history[-1].test}
    )
    assert len(failing(claim, evidence)) == fails


@pytest.mark.parametrize(
    ("variant", "measure", "value"),
    [
        ("learned", "nc1_ratio", 0.31),
        ("learned", "nc2_angles_weights", 0.061),
        ("learned", "nc3", 0.11),
        ("learned", "nc_m/2", 0.11),
        ("fixed", "nc_m/2", 0.11),
        ("fixed, d = 60", "nc_m/2", 0.12),
    ],
)
def test_measures_decide_on_label_sets(variant, measure, value):
    claim = find_claim("multi-label")
    evidence = supporting(claim)
    evidence[variant][0].history[-1].collapse[measure] = value
    assert len(failing(claim, evidence)) == 1


@pytest.mark.parametrize("size", ["one", "two"])
def test_exact_sets_decide_on_label_sets(size):
    claim = find_claim("multi-label")
    evidence = supporting(claim)
    evidence["fixed"][0].extra[size] -= 0.011
    assert len(failing(claim, evidence)) == 1


class Recorded(nn.Module):
    """The same logits (N, K), whatever the images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def features_and_logits(self, images):
        return images.float().flatten(1), {"digit": self.logits}


def test_exact_sets_by_their_size():
    sets = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]])
    logits = torch.tensor([[2.0, 1, 0], [2, 1, 0], [2, 1, 0], [2, 1, 0]])
    images = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), sets)
    data = ImageData({"digit": 3}, images, images, shift=0, label_sets=True)
    found = multi_label.examine(Recorded(logits), data, None)
    assert found == multi_label.Exact(one=0.5, two=0.5)


def test_label_sets_are_trained_on_and_measured(tmp_path):
    plan = find_claim("multi-label").plans["reduced"]
    settings = {**plan.base, "epochs": 2, "measure_every": 2, "width": 4, "batch_size": 500}
    claim = Claim(
        name="sets",
        title="",
        says="",
        plans={"reduced": Plan("multi-digits", settings, {"fixed": Variant({"head": "compound"})})},
        judge=lambda _: [],
        measures=("nc_m/2",),
        examine=multi_label.examine,
    )
    (found,) = gather(claim, Request(output=tmp_path, seeds=(0,))).evidence["fixed"]
    start, end = found.history
    assert end.train.loss < start.train.loss
    assert end.collapse["nc_m/2"] < start.collapse["nc_m/2"]
    (exact,) = extras([found], multi_label.Exact)
    assert end.test.accuracy["digit"] == pytest.approx((800 * exact.one + 900 * exact.two) / 1700)
