import pytest
import torch
from torch import nn

from etf_heads.collapse import LayerwiseCollapse, SingleTaskCollapse, pooled


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))


def single(dim):
    return SingleTaskCollapse(dim, 3)


def batches():
    generator = torch.Generator().manual_seed(1)
    for n in (20, 7):
        yield torch.randn(n, 1, 8, 8, generator=generator), torch.arange(n) % 3


def test_each_layer_is_measured_as_if_alone():
    model, expected = network(), {"0": SingleTaskCollapse(6, 3), "3": SingleTaskCollapse(5, 3)}
    with LayerwiseCollapse(model, ["0", "3"], single) as layers:
        for images, labels in batches():
            model(images)
            layers.update(labels)
    for images, labels in batches():
        with torch.no_grad():
            expected["0"].update(model[0](images).mean((2, 3)), labels)
            expected["3"].update(model(images), labels)
    values = layers.compute()
    assert list(values) == ["0", "3"]
    for name, measure in expected.items():
        assert values[name] == pytest.approx(measure.compute(), rel=1e-6)
    weight = torch.randn(3, 5)
    assert "nc3" in layers.measures["3"].compute(weight)
    layers.reset()
    with pytest.raises(ValueError, match="seen no data"):
        layers.measures["0"].class_statistics()


def test_hooks_go_even_after_an_error():
    model = network()
    with (
        pytest.raises(RuntimeError, match="size"),
        LayerwiseCollapse(model, ["0"], single),
    ):
        model(torch.zeros(1, 1, 2, 3))  # an image too small for the kernel
    assert not model[0]._forward_hooks


def test_labels_need_a_batch_that_the_model_has_seen():
    model = network()
    layers = LayerwiseCollapse(model, ["0", "3"], single)
    with pytest.raises(ValueError, match="LayerwiseCollapse has seen no data"):
        layers.compute()
    images, labels = next(batches())
    model(images)
    layers.update(labels)
    with pytest.raises(ValueError, match=r"layers \['0', '3'\] have not run since the last"):
        layers.update(labels)


@pytest.mark.parametrize("names", [["0", "5"], []])
def test_unknown_layers(names):
    with pytest.raises(ValueError, match="choose from the names in dict"):
        LayerwiseCollapse(network(), names, single)


def test_pooling():
    x = torch.arange(24.0)
    assert torch.equal(pooled(x.view(4, 6)), x.view(4, 6))
    assert torch.equal(pooled(x.view(2, 3, 4)), x.view(2, 3, 4).mean(1))
    assert torch.equal(pooled(x.view(1, 2, 3, 4)), x.view(1, 2, 12).mean(2))
    assert torch.equal(pooled({"last": x.view(2, 3, 4), "rest": None}), x.view(2, 3, 4).mean(1))
    for bad in (torch.zeros(3), "text"):
        with pytest.raises(ValueError, match="give pool="):
            pooled(bad)
    model = network()
    with LayerwiseCollapse(model, ["0"], single, pool=lambda out: out.amax((2, 3))) as layers:
        images, labels = next(batches())
        model(images)
        layers.update(labels)
    means = layers.measures["0"].class_statistics().means
    expected = model[0](images).amax((2, 3))[labels == 0].mean(0)
    torch.testing.assert_close(means[0], expected.double())


def test_ranks_of_class_means():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 2), nn.Linear(2, 9)).double()
    with LayerwiseCollapse(
        model, ["0", "1", "2"], lambda dim: SingleTaskCollapse(dim, 5)
    ) as layers:
        with pytest.raises(ValueError, match="LayerwiseCollapse has seen no data"):
            layers.ranks()
        model(torch.randn(5, 7, dtype=torch.float64).repeat(3, 1))
        layers.update(torch.arange(5).repeat(3))
    assert layers.ranks(share=1e-9) == {"0": 4, "1": 2, "2": 2}
    assert layers.ranks(share=1e-9, centred=False) == {"0": 5, "1": 2, "2": 3}  # with the bias
    assert layers.ranks(share=0.999) == dict.fromkeys("012", 1)
