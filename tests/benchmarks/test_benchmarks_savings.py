"""The committed table of savings, counted again in other ways."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.published import ShuffleNetV1, published
from benchmarks.savings import ARCHITECTURES, CLASSES, build, row

pytestmark = pytest.mark.recipes
RESULT = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "results" / "savings.json").read_text()
)
ROWS = {(r["library"], r["architecture"], r["classes"]): r for r in RESULT["rows"]}


def test_every_architecture_has_every_number_of_classes():
    wanted = {(lib, n, k) for lib, names in ARCHITECTURES.items() for n in names for k in CLASSES}
    assert set(ROWS) == wanted
    assert len(wanted) // len(CLASSES) >= 40
    assert len(RESULT["rows"]) == len(wanted)


def test_numbers_of_a_row_follow_from_its_shapes():
    for found in RESULT["rows"]:
        classes, features = found["classes"], found["features"]
        assert found["share"] == found["head_parameters"] / found["parameters"]
        assert (found["saved"] is None) == (classes > features + 1)
        if found["classifiers"] == 1:
            assert found["head_parameters"] == classes * (features + 1)
        if found["saved"] is not None:
            head = found["head_parameters"]
            assert found["saved"]["parameters"] == head
            assert (
                found["saved"]["gradient_bytes"] == found["saved"]["checkpoint_bytes"] == 4 * head
            )
            # Two moments, and a step count for each weight and bias.
            steps = 4 * 2 * found["classifiers"]
            assert found["saved"]["optimizer_state_bytes"] == 8 * head + steps


def test_what_does_not_belong_to_the_head_does_not_depend_on_classes():
    for library, names in ARCHITECTURES.items():
        for name in names:
            own = [ROWS[library, name, k] for k in CLASSES]
            assert len({r["parameters"] - r["head_parameters"] for r in own}) == 1
            assert len({r["checkpoint_bytes"] - 4 * r["head_parameters"] for r in own}) == 1


@pytest.mark.parametrize(
    ("library", "name", "classes"),
    [
        ("torchvision", "resnet18", 100),
        ("torchvision", "squeezenet1_1", 1000),  # a convolution, too narrow for an ETF
        ("timm", "deit_small_distilled_patch16_224", 10),  # two classifiers
    ],
)
def test_rows_are_counted_again(library, name, classes):
    with torch.device("meta"):
        model = build(library, name, classes)
    found = row(library, name, classes)
    assert found == ROWS[library, name, classes]
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    kept = {id(p) for p in model.state_dict(keep_vars=True).values()}
    assert len(kept) == len(model.state_dict())
    assert found["checkpoint_bytes"] == sum(t.nbytes for t in model.state_dict().values())
    tensors = list(model.parameters())
    assert found["optimizer_state_bytes"] == sum(8 * p.numel() + 4 for p in tensors)
    ends = [m for m in model.modules() if getattr(m, "out_features", 0) == classes]
    ends += [m for m in model.modules() if getattr(m, "out_channels", 0) == classes]
    assert found["head_parameters"] == sum(p.numel() for m in ends for p in m.parameters())


def test_published_figures_are_reproduced():
    rows = {r["architecture"]: r for r in published()}
    assert list(rows.values()) == RESULT["published"]
    assert round(rows["ResNet-50"]["weights_percent"], 2) == 8.01
    assert round(rows["DenseNet-169"]["weights_percent"], 2) == 11.76
    assert round(rows["ResNet-18, d = K"]["percent"], 1) == 20.7
    assert round(rows["ResNet-50, d = K"]["percent"], 1) == 4.5
    assert rows["ResNet-50"]["parameters"] == 25_557_032
    assert rows["DenseNet-169"]["parameters"] == 14_149_480


def test_shufflenet_has_the_parameters_of_its_formula():
    """Bottlenecks of a quarter, biases everywhere, a BatchNorm behind all but the stem."""
    total, inputs = 3 * 24 * 9 + 24, 24
    for channels, units in ((240, 4), (480, 8), (960, 4)):
        for unit in range(units):
            outputs = channels - inputs if unit == 0 else channels
            middle = outputs // 4
            grouped = inputs * middle // (1 if inputs == 24 else 3)
            total += grouped + 9 * middle + middle * outputs // 3 + 3 * (2 * middle + outputs)
            inputs = channels
    total += 961 * 1000
    model = ShuffleNetV1(1000)
    assert sum(p.numel() for p in model.parameters()) == total == 1_826_554
    assert round(100 * 960_000 / total, 2) == 52.56
    found = next(r for r in RESULT["published"] if r["architecture"].startswith("ShuffleNet"))
    assert (found["parameters"], found["saved"], found["simplex_etf"]) == (total, 961_000, False)
    images = torch.randn(2, 24, 8, 8)
    assert isinstance(model.units[0], nn.Sequential)
    assert model.units[0](images).shape[1] == 240 - 24
