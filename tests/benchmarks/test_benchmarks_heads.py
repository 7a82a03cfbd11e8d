"""The benchmark of heads: its learned heads are one and the same, and the fastest is shown."""

import pytest
import torch
import tyro
from torch import nn

from benchmarks import heads
from benchmarks.sections.heads import ratio_table, steps_of

pytestmark = pytest.mark.recipes
SIZE = (8, 12, 3, 4)


def loss_and_gradients(name):
    """Of features and of all tasks' weights, with the same numbers in every way."""
    _, dim, tasks, classes = SIZE
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(tasks * classes, dim, generator=generator)
    bias = torch.randn(tasks * classes, generator=generator)
    labels = torch.randint(classes, (8, tasks), generator=generator)
    features = torch.randn(8, dim, generator=generator, requires_grad=True)
    loss, parameters = heads._loss(name, (dim, tasks, classes), labels, "cpu")
    parts = 1 if name == "linear-joined" else tasks
    with torch.no_grad():
        for layer, w, b in zip(
            zip(parameters[::2], parameters[1::2], strict=True),
            weight.chunk(parts),
            bias.chunk(parts),
            strict=True,
        ):
            layer[0].copy_(w)
            layer[1].copy_(b)
    value = loss(features)
    value.backward()
    return value, features.grad, torch.cat([p.grad for p in parameters[::2]])


@pytest.mark.parametrize("name", heads.LEARNED[1:])
def test_all_learned_heads_have_one_loss(name):
    if name not in heads.methods_for(SIZE, "cpu"):
        pytest.skip("not in this version of torch")
    for found, expected in zip(loss_and_gradients(name), loss_and_gradients("linear"), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [SIZE, (8, 12, 1, 4)])
def test_every_way_takes_a_step(size):
    for method in heads.methods_for(size, "cpu"):
        heads.make_step(method, size, "cpu")()


def test_ways_that_torch_lacks_are_left_out(monkeypatch):
    monkeypatch.delattr(nn, "LinearCrossEntropyOptions", raising=False)
    assert "linear-chunked" not in heads.methods_for(SIZE, "cpu")
    assert "linear-joined" not in heads.methods_for((8, 12, 1, 4), "cpu")


def test_the_ratio_is_to_the_fastest_learned_head():
    size = dict(zip(("batch", "dim", "tasks", "classes"), SIZE, strict=True))
    seconds = {"ready": 1, "linear": 9, "linear-joined": 6, "tiled-fused": 2}
    steps = [size | {"method": m, "median_s": s} for m, s in seconds.items()]
    steps.append(size | {"method": "linear-chunked", "failed": "no kernel"})
    _, line = ratio_table(steps_of({"steps": steps}))
    assert line[1:] == ("linear-joined", "6,000", "2,000", "3.0", "2.0")


def test_sizes_are_read_as_they_are_written(capsys):
    assert tyro.cli(heads.Size, args=["256x512x2x10"]) == (256, 512, 2, 10)
    for wrong in ("256x512x2", "ax1x1x2"):
        with pytest.raises(SystemExit):
            tyro.cli(heads.Size, args=[wrong])
    assert "BxDxTxK" in capsys.readouterr().err
