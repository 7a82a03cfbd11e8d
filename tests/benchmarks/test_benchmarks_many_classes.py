"""The benchmark of many classes: its ways compute what they say, at a small size."""

import json

import pytest
import torch
from torch.nn import functional as F

from benchmarks import many_classes
from benchmarks.sections import many_classes as section
from etf_heads import SphericalCodeHead

pytestmark = pytest.mark.recipes
SIZE = (8, 16, 100)


def test_learned_ways_have_one_loss():
    features, labels = torch.randn(8, 16), torch.randint(100, (8,))
    losses = []
    for method in many_classes.LEARNED:
        if method not in many_classes.methods_for("cpu"):
            continue
        torch.manual_seed(0)
        loss, (weight,) = many_classes._loss(method, features, labels, 100)
        losses.append(loss())
        torch.testing.assert_close(losses[-1], F.cross_entropy(features @ weight.T, labels))
    assert len(losses) >= 2


def test_the_streamed_loss_is_the_exact_one():
    features, labels = torch.randn(8, 16), torch.randint(100, (8,))
    loss, parameters = many_classes._loss("streamed", features, labels, 100)
    assert not parameters
    torch.testing.assert_close(
        loss(), F.cross_entropy(SphericalCodeHead(16, 100)(features), labels)
    )


def test_answers_are_right():
    features, labels = torch.randn(8, 256), torch.randint(66_048, (8,))
    values, classes = many_classes._answer("topk", features, labels, 66_048)()
    assert torch.equal(classes[:, 0], labels)
    torch.testing.assert_close(values[:, 0], torch.full((8,), 16 * many_classes.COSINE))


@pytest.mark.parametrize("method", many_classes.methods_for("cpu"))
def test_every_way_takes_a_step(method):
    many_classes.make_step(method, SIZE, "cpu")()


@pytest.fixture
def in_this_process(monkeypatch):
    """Each measurement; processes of their own are tested with the page."""
    monkeypatch.setattr(many_classes, "in_own_process", lambda work, **options: work(**options))


@pytest.mark.usefixtures("in_this_process")
def test_what_does_not_fit_says_what_it_would_need(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(many_classes, "room", lambda _: 4 * 100 * (16 + 8))  # fits nothing learned
    path = tmp_path / "result.json"
    many_classes.main(sizes=(SIZE,), seconds=0.01, least=2, device="cpu", output=path)
    result = json.loads(path.read_text())
    by_method = {entry["method"]: entry for entry in result["steps"]}
    assert "needs 0.0 GiB" in by_method["linear"]["stopped"]
    assert by_method["linear"]["needs_bytes"] == 4 * 100 * (4 * 16 + 2 * 8)
    assert by_method["streamed"]["median_s"] > 0
    assert by_method["streamed"]["memory"]["bytes"] >= 0
    assert "linear" in capsys.readouterr().out
    (floor,) = result["floors"]
    assert floor["additions"] == 2 * 8 * 50 * 4
    made = section.section(result)
    assert "No learned head fits at 8 x 16, K = 100." in made.verdict
    assert len(made.tables) == 4


def test_ratios_are_to_the_fastest_learned_head():
    named = {"batch": 8, "dim": 16, "classes": 100}
    times = {"linear": 6.0, "linear-fused": 4.0, "streamed": 2.0, "ntce": 1.0}
    times |= {"dense-topk": 8.0, "topk": 1.0, "topk-exact": 2.0}
    steps = [
        {**named, "method": m, "median_s": t, "memory": {"bytes": 1}} for m, t in times.items()
    ]
    floors = [{**named, **many_classes.floor_of(SIZE)}]
    made = section.section({"steps": steps, "floors": floors})
    (_, line), *_ = (table.lines for table in made.tables)
    assert line[1:] == ("linear-fused", "2.0", "4.0", "8.0", "4.0")


@pytest.mark.usefixtures("in_this_process")
def test_sizes_are_added_to_those_of_the_same_commit(tmp_path):
    path = tmp_path / "result.json"
    quick = {"seconds": 0.01, "least": 2, "device": "cpu", "output": path}
    many_classes.main(sizes=(SIZE,), **quick)
    many_classes.main(sizes=((4, 16, 50),), add=True, **quick)
    result = json.loads(path.read_text())
    assert [floor["classes"] for floor in result["floors"]] == [100, 50]
    assert {entry["classes"] for entry in result["steps"]} == {100, 50}
    result["provenance"]["commit"] = "another"
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"is of another on .*: measure all sizes anew"):
        many_classes.main(sizes=(SIZE,), add=True, **quick)


@pytest.mark.usefixtures("in_this_process")
def test_a_way_whose_first_step_takes_long_is_left_out(tmp_path):
    path = tmp_path / "result.json"
    many_classes.main(sizes=(SIZE,), seconds=0.01, least=2, patience=0, device="cpu", output=path)
    steps = json.loads(path.read_text())["steps"]
    assert {entry["stopped"] for entry in steps} == {"the first step took 0 s"}
