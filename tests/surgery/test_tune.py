"""One layer tuned, with a connection from it to the classifier."""

import copy
import pickle

import pytest
import torch
from torch import nn

from etf_heads import CompoundETFHead, load_model, replace_head, save_model
from etf_heads.heads import LinearHead
from etf_heads.surgery import tune_layer


class Network(nn.Module):
    """Convolutions of 4 and 6 channels, and a classifier of 6 features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


def images(n=5):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_what_is_tuned_and_what_is_frozen():
    model = tune_layer(Network(), "first.0", at="fc").train()
    assert trained(model) == {"first.0.weight", "first.0.bias", "fc.weight", "fc.bias"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model.train()
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images()), torch.arange(5) % 3).backward()
        optimiser.step()
    moved = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert moved == trained(model)  # running statistics are not among them


def test_a_normalisation_inside_the_layer_is_trained():
    model = tune_layer(Network(), "second", skip=False, at="fc").train()
    first, second = model.first[1], model.second[1]
    state = [first.running_mean.clone(), second.running_mean.clone()]
    model(images())
    assert torch.equal(first.running_mean, state[0])
    assert not torch.equal(second.running_mean, state[1])
    assert trained(model) >= {"second.1.weight", "second.1.bias"}


def test_the_connection_adds_the_pooled_output():
    model, x = Network().eval(), images()
    plain = copy.deepcopy(model)
    output = plain.first(x)
    last = plain.second(output).mean((2, 3))
    padded = torch.cat([output.mean((2, 3)), torch.zeros(5, 2)], dim=1)
    tune_layer(model, "first", at="fc")
    torch.testing.assert_close(model(x), plain.fc(last + padded))
    tune_layer(model, "first", at="fc", pool=lambda maps: maps.amax((2, 3)))
    padded = torch.cat([output.amax((2, 3)), torch.zeros(5, 2)], dim=1)
    torch.testing.assert_close(model(x), plain.fc(last + padded))
    tune_layer(model, "second", skip=False, at="fc")  # instead
    assert torch.equal(model(x), plain(x))
    assert trained(model) == {n for n, _ in model.named_parameters() if n[:2] in ("se", "fc")}


def test_gradients_come_by_both_ways():
    x, y = images(), torch.arange(5) % 3
    model, plain = tune_layer(Network().eval(), "first", at="fc"), Network().eval()

    def loss(weight):
        output = nn.functional.conv2d(x, weight, plain.first[0].bias, padding=1)
        output = plain.first[2](plain.first[1](output))
        last = plain.second(output).mean((2, 3))
        last = last + nn.functional.pad(output.mean((2, 3)), (0, 2))
        return nn.functional.cross_entropy(plain.fc(last), y)

    nn.functional.cross_entropy(model(x), y).backward()
    weight = plain.first[0].weight
    (expected,) = torch.autograd.grad(loss(weight), weight)
    torch.testing.assert_close(model.first[0].weight.grad, expected)


def test_fixed_heads_of_several_tasks_and_of_channels():
    model = replace_head(Network(), {"a": 3, "b": 2}, at="fc").eval()
    tune_layer(model, "first", at="fc")
    found = model(images())
    assert {name: tuple(z.shape) for name, z in found.items()} == {"a": (5, 3), "b": (5, 2)}
    assert trained(model) == {n for n, _ in model.named_parameters() if n.startswith("first")}

    class Convolutional(Network):
        def forward(self, x):
            return self.fc(self.second(self.first(x)).mean((2, 3), keepdim=True))[..., 0, 0]

    plain = Convolutional()
    plain.fc = nn.Conv2d(6, 3, 1)
    plain.eval()
    x = images()
    output = plain.first(x)
    last = plain.second(output).mean((2, 3)) + nn.functional.pad(output.mean((2, 3)), (0, 2))
    expected = plain.fc(last[:, :, None, None])[..., 0, 0]
    model = tune_layer(plain, "first", at="fc")
    torch.testing.assert_close(model(x), expected)


def test_tokens():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Linear(3, 4), nn.Linear(4, 6)
            self.fc = CompoundETFHead(6, [3, 2])

        def forward(self, x):
            return self.fc(self.last(self.inner(x)))

    model = tune_layer(Tagger(), "inner", at="fc")
    x = torch.randn(2, 7, 3)
    h = model.inner(x)
    last = model.last(h) + nn.functional.pad(h.mean(1), (0, 2))[:, None]
    torch.testing.assert_close(model(x)[0], last @ model.fc.task_weight(0).T)


def test_copies_and_files(tmp_path):
    x = images()
    model = tune_layer(Network(), "first", at="fc").eval()
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        twin.first[0].weight.data += 1  # its connection is of its own layers
        assert torch.equal(model(x), expected)
        assert not torch.equal(twin(x), expected)
    replace_head(model, 3, at="fc")
    tune_layer(model, "first", at="fc")
    save_model(model, tmp_path / "tuned.safetensors")
    loaded = load_model(Network(), tmp_path / "tuned.safetensors")
    tune_layer(loaded, "first", at="fc")
    torch.testing.assert_close(loaded.eval()(x), model(x))


def test_the_learned_head_of_this_library_is_a_classifier():
    x, model = images(), Network()
    model.fc = LinearHead(6, {"kind": 3, "size": 2})
    tune_layer(model, "first", at="fc").eval()
    assert trained(model) >= {"fc.weight", "fc.bias"}
    maps = model.first(x)
    extra = nn.functional.pad(maps.mean((2, 3)), (0, 2))
    expected = model.fc.linears()["kind"](model.second(maps).mean((2, 3)) + extra)
    torch.testing.assert_close(model(x)["kind"], expected)


@pytest.mark.skipif(
    torch.__version__ < "2.14", reason="Dynamo of 2.13 fails on a model's own hooks"
)
def test_compilation():
    x = images()
    model = tune_layer(replace_head(Network(), 3, at="fc"), "first", at="fc")
    compiled = torch.compile(model.train(), backend="aot_eager", fullgraph=True)
    found, expected = compiled(x), model.train()(x)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    assert model.first[0].weight.grad.any()


def test_shares_of_the_blocks_of_a_resnet():
    """Per cent of the backbone's parameters, as the paper's figures count them."""
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    shares = []
    for stage in range(1, 5):
        for block in range(2):
            name = f"layer{stage}.{block}"
            tune_layer(model, name)
            own = sum(p.numel() for n, p in model.named_parameters() if n.startswith(f"{name}."))
            tuned = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert tuned == own + sum(p.numel() for p in model.fc.parameters())
            shares.append(own)
    backbone = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("fc"))
    found = [round(100 * share / backbone, 1) for share in shares]
    assert found == [0.7, 0.7, 2.1, 2.6, 8.2, 10.6, 32.9, 42.2]


def test_bad_input():
    for name in ("third", ""):
        with pytest.raises(ValueError, match=f"layer='{name}': Network has no such module"):
            tune_layer(Network(), name, at="fc")
    with pytest.raises(ValueError, match="layer='fc' contains the classifier 'fc'"):
        tune_layer(Network(), "fc", at="fc")
    with pytest.raises(ValueError, match=r"layer='first.2' has no parameters to tune: ReLU"):
        tune_layer(Network(), "first.2", at="fc")
    with pytest.raises(ValueError, match="no module 'fx'"):
        tune_layer(Network(), "first", at="fx")
    wide = nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 4), nn.Linear(4, 2))
    tune_layer(wide, "0", at="2")
    with pytest.raises(ValueError, match=r"'0' has 9 features, the classifier takes 4: .*skip=Fal"):
        wide(torch.randn(5, 3))
    late = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    tune_layer(late, "1", at="0")
    with pytest.raises(ValueError, match="the classifier ran before the layer '1'"):
        late(torch.randn(5, 3))
    assert trained(tune_layer(late, "1", at="0", skip=False)) == {
        *("0.weight", "0.bias", "1.weight", "1.bias")
    }
