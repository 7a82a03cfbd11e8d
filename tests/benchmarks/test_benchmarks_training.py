"""Whole training steps at a tiny size: what is counted, what follows, what is shown."""

import pytest
import torch
import tyro
from torch.utils.data import DataLoader

from benchmarks import training
from benchmarks.harness import in_turn, result_file
from benchmarks.sections.training import section, sizes_of, step_table, training_table
from recipes.storage import read_json

pytestmark = pytest.mark.recipes
TINY = {
    "backbone": "cnn",
    "width": 2,
    "batch": 4,
    "classes": 100,
    "image_size": 8,
    "precision": "no",
    "compiled": False,
    "images": 16,
    "workers": 1,
    "steps": 1,
    "product": 8,
    "seconds": 0,
}


@pytest.fixture(scope="module")
def measured():
    return training.measure_size(**TINY)


def flops(batch, width, pixels, features, head):
    """Multiply-adds of three convolutions and a projection, by hand; images get no gradient."""
    area = pixels**2
    first = 3 * width * 9 * area
    second = width * 2 * width * 9 * area // 4
    third = 2 * width * 2 * width * 9 * area // 16
    projection = 2 * width * area // 16 * features
    return 2 * batch * (3 * (first + second + third + projection + head) - first)


def test_flops_are_those_of_the_layers(measured):
    size = (TINY["batch"], TINY["width"], TINY["image_size"], 100)
    assert measured["ways"]["learned"]["flops"] == flops(*size, 100 * 100)
    assert measured["ways"]["compound"]["flops"] == flops(*size, 0)  # structured: no product
    committed = read_json(result_file("training"))
    for entry in committed["sizes"]:
        if entry["backbone"] == "cnn":
            features = max(128, entry["classes"])
            size = (entry["batch"], entry["width"], entry["image_size"], features)
            assert entry["ways"]["learned"]["flops"] == flops(*size, features * entry["classes"])


def test_shares_follow_from_the_times(measured):
    ways = measured["ways"]
    assert set(ways) == {"learned", "compound", "input", "workers", "product"}
    assert measured["steps_a_round"] == 2  # what a worker has prefetched
    rate = 2 * 8**3 / ways["product"]["median_s"]
    for head in ("learned", "compound"):
        found = ways[head]
        assert found["images_per_second"] == pytest.approx(4 / found["median_s"])
        assert found["input_share"] == pytest.approx(ways["input"]["median_s"] / found["median_s"])
        assert found["share_of_peak"] == pytest.approx(found["flops"] / found["median_s"] / rate)
        assert found["low_s"] <= found["median_s"] <= found["high_s"]
        assert found["n"] == 11


def test_workers_give_the_shapes_and_the_scale_that_the_recipes_have():
    data = training.random_images(8, 8, 100)
    images, labels = next(iter(DataLoader(training.OneByOne(data.train), batch_size=8)))
    assert images.shape == data.train.images.shape
    assert images.dtype == torch.float32
    assert images.abs().max() <= 2
    assert torch.equal(labels, data.train.labels)


def test_calls_are_timed_in_turn_and_only_the_second_of_a_round_counts():
    made = []
    calls = {name: lambda name=name: made.append(name) for name in "ab"}
    found = in_turn(calls, "cpu", seconds=0, least=3)
    assert "".join(made) == 3 * "aabb"
    assert [found[name]["n"] for name in "ab"] == [3, 3]


def test_the_program_writes_what_it_measured(tmp_path, monkeypatch):
    asked = []

    def measure(_, **size):
        asked.append(size)
        return {"failed": "no <compiler>"}

    monkeypatch.setattr(training, "in_own_process", measure)
    output = tmp_path / "training.json"
    options = tyro.cli(
        training.Options,
        default=training.DEFAULTS["cpu"],
        args=["--batches", "8", "16", "--classes", "10", "--no-compiled", "--output", str(output)],
    )
    training.main(options)
    assert [size["batch"] for size in asked] == [8, 16]
    assert [size["classes"] for size in asked] == [10, 10]
    assert not any(size["compiled"] for size in asked)
    assert set(asked[0]) == set(TINY)
    written = read_json(output)
    assert [size["batch"] for size in written["sizes"]] == [8, 16]
    assert section(written).verdict == "Nothing could be measured."
    assert "no <compiler>" in training_table(written["sizes"])[1]
    assert len(step_table(written["sizes"])) == 1


def test_a_fixed_head_that_makes_a_step_slower_is_shown_so():
    ways = {"learned": {"median_s": 0.008}, "compound": {"median_s": 0.01}}
    size = {"backbone": "cnn", "width": 2, "image_size": 8, "batch": 4, "precision": "no"}
    of_one_count = {"classes": 10, "sizes": [size | {"ways": ways}]}
    _, line = step_table(sizes_of(of_one_count))
    assert line == ("cnn, width 2, 8 px, K = 10, batch 4, float32", "8", "10", "0.80")


def test_verdict_is_computed_from_the_ways():
    result = read_json(result_file("training"))
    ways = result["sizes"][-1]["ways"]
    ways["compound"]["images_per_second"] = 7e9
    ways["workers"]["images_per_second"] = 2e9
    ways["compound"] |= {"input_share": 0.123, "share_of_peak": 0.456}
    verdict = section(result).verdict
    assert "compound, trains on 7,000,000,000 images a second, 3.5 times" in verdict
    assert "takes 12.3%" in verdict
    assert "reaches 45.6%" in verdict
