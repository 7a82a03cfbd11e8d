"""Narrow networks have the parameters that the formula says, and run."""

import logging

import pytest
import torch
from torch import nn

from etf_heads import ETFHead, narrow_features, replace_head, savings
from etf_heads.surgery import find_heads, model_costs

pytestmark = pytest.mark.recipes


def torchvision(name, classes=10):
    models = pytest.importorskip("torchvision.models")
    return models.get_model(name, num_classes=classes)


def timm(name, classes=10):
    return pytest.importorskip("timm").create_model(name, num_classes=classes)


def resnet_parameters(blocks, classes, *, bottleneck, kernel=7, dim=None):
    """A ResNet counted layer by layer; ``dim`` is the width of a narrowed, fixed-head one."""
    expansion = 4 if bottleneck else 1

    def convolution(inputs, outputs, size):
        return inputs * outputs * size**2 + 2 * outputs  # and its BatchNorm

    total, inputs = convolution(3, 64, kernel), 64
    for stage, repeats in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(repeats):
            last = dim is not None and stage == 3 and block == repeats - 1
            outputs = dim if last else width * expansion
            if bottleneck:
                total += convolution(inputs, width, 1) + convolution(width, width, 3)
                total += convolution(width, outputs, 1)
            else:
                total += convolution(inputs, width, 3) + convolution(width, outputs, 3)
            if inputs != outputs:
                total += convolution(inputs, outputs, 1)
            inputs = outputs
    return total + (0 if dim is not None else (inputs + 1) * classes)


RESNETS = {
    "resnet18": ((2, 2, 2, 2), False, 20.7),
    "resnet50": ((3, 4, 6, 3), True, 4.5),
}


@pytest.mark.parametrize(("build", "kernel"), [(torchvision, 7), (torchvision, 3), (timm, 7)])
@pytest.mark.parametrize("name", RESNETS)
def test_published_savings_of_narrow_resnets(name, build, kernel):
    blocks, bottleneck, published = RESNETS[name]
    with torch.device("meta"):
        model = build(name)
        if kernel == 3:
            model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    before = model_costs(model, "SGD")
    found = savings(before, replace_head(narrow_features(model, 10), 10), "SGD")
    shapes = {"bottleneck": bottleneck, "kernel": kernel}
    assert before.parameters == resnet_parameters(blocks, 10, **shapes)
    assert found.after.parameters == resnet_parameters(blocks, 10, **shapes, dim=10)
    assert round(found.percent["parameters"], 1) == published


@pytest.mark.parametrize(
    ("name", "parameters", "features", "published"),
    [("resnet50", 25_557_032, 2048, 8), ("densenet169", 14_149_480, 1664, 12)],
)
def test_published_savings_of_fixed_classifiers(name, parameters, features, published):
    with torch.device("meta"):
        model = torchvision(name, 1000)
    before = model_costs(model, "SGD")
    found = savings(before, replace_head(model), "SGD")
    assert found.before.parameters == parameters  # as published to the last one
    assert found.saved["parameters"] == 1000 * (features + 1)
    assert round(found.percent["parameters"]) == published


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (torchvision, "resnet18"),
        (timm, "resnet18"),
        (timm, "resnet10t"),  # one block a stage: its shortcut is narrowed
        (timm, "resnet26d"),
        (timm, "res2net50d"),
        (timm, "resnest14d"),
    ],
)
def test_last_block_makes_the_features(build, name):
    torch.manual_seed(0)
    model = build(name).eval()
    size = sum(p.numel() for p in model.parameters())
    narrow_features(model, 4)
    seen = []
    model.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    assert seen == [(2, 4)]
    assert type(model.fc) is nn.Linear
    assert model.fc.bias.shape == (10,)
    assert sum(p.numel() for p in model.parameters()) < size
    assert not any(module.training for module in model.modules())
    if build is timm:
        assert model.num_features == model.head_hidden_size == 4


def test_kept_channels_are_the_first_ones():
    torch.manual_seed(0)
    model = torchvision("resnet18").eval()
    block = model.layer4[1]
    nn.init.normal_(block.bn2.running_mean)
    inputs = torch.randn(2, 512, 3, 3)
    with torch.no_grad():
        old = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(inputs)))))
        narrow_features(model, 4)
        new = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(inputs)))))
        torch.testing.assert_close(new, old[:, :4])
        expected = torch.relu(new + block.downsample(inputs))
        torch.testing.assert_close(block(inputs), expected)


def test_the_shortcut_is_drawn_as_resnets_draw_their_convolutions():
    torch.manual_seed(0)
    convolution, norm = narrow_features(torchvision("resnet50"), 64).layer4[2].downsample
    assert convolution.weight.shape == (64, 2048, 1, 1)
    assert convolution.bias is None
    assert abs(convolution.weight.mean()) < 2e-3
    assert abs(convolution.weight.std() - (2 / 64) ** 0.5) < 2e-3
    assert torch.equal(norm.weight, torch.ones(64))
    assert norm.num_features == 64


def test_a_narrowed_network_learns():
    model = replace_head(narrow_features(torchvision("resnet18").train(), 10), 10)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    block = model.layer4[1]
    assert all(p.grad is not None for p in block.parameters())
    assert isinstance(model.fc, ETFHead)


@pytest.mark.parametrize(
    ("build", "name", "heads"),
    [
        pytest.param(torchvision, "densenet121", ["classifier.1"], marks=pytest.mark.slow),
        (torchvision, "squeezenet1_1", ["classifier.1.1"]),  # a convolution
        (timm, "vit_tiny_patch16_224", ["head.1"]),
        (timm, "seresnet18", ["fc.1"]),  # attention behind the last convolution
        (timm, "resnetv2_50", ["head.fc.1"]),  # normalisation behind the last block
        pytest.param(timm, "resnet50_gn", ["fc.1"], marks=pytest.mark.slow),
        (timm, "levit_128s", ["head.linear.1", "head_dist.linear.1"]),
    ],
)
def test_other_networks_get_a_projection(build, name, heads, caplog):
    with torch.device("meta"):
        model = build(name)
        classifiers = find_heads(model).values()
        widths = [layer.weight.shape[1] for layer in classifiers]
        before = model_costs(model, "SGD")
        with caplog.at_level(logging.INFO, "etf_heads"):
            narrow_features(model, 4)
        assert f"projections to 4 features before {heads[0][:-2]}" in caplog.text
        assert list(find_heads(model)) == heads
        found = savings(before, model, "SGD")
        change = sum(4 * d + (4 + 1) * 10 - (d + 1) * 10 for d in widths)
        assert found.saved["parameters"] == -change
        assert model.eval()(torch.empty(2, 3, 224, 224)).shape == (2, 10)
        replace_head(model, 5)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 5)


def test_relu_behind_a_projected_classifier_goes_with_it():
    model = replace_head(narrow_features(torchvision("squeezenet1_1"), 9))
    assert not any(isinstance(module, nn.ReLU) for module in model.classifier.modules())


@pytest.mark.parametrize("bias", [True, False])
def test_kind_precision_and_mode_are_kept(bias):
    last = nn.Linear(8, 3, bias=bias)
    model = nn.Sequential(nn.Linear(4, 8), last).to(torch.float64).eval()
    assert narrow_features(model, 2, at="1") is model
    projection, classifier = model[1]
    assert (projection.bias, classifier.bias is not None) == (None, bias)
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert not classifier.training
    assert model(torch.randn(5, 4, dtype=torch.float64)).shape == (5, 3)


@pytest.mark.parametrize(
    ("dim", "message"),
    [
        (8, "dim=8 must be less than the 8 features of the classifier '1'"),
        (9, "dim=9 must be less"),
        (0, "dim must be"),
        (2.5, "dim must be"),
    ],
)
def test_wrong_widths_are_refused(dim, message):
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=message):
        narrow_features(model, dim, at="1")
    assert model[1].in_features == 8


def test_a_fixed_head_is_refused():
    model = nn.Sequential(nn.Linear(4, 8), ETFHead(8, 3))
    with pytest.raises(ValueError, match="narrow the features first"):
        narrow_features(model, 3, at="1")
