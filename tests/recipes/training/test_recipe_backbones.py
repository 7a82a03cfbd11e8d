from dataclasses import replace

import pytest
import torch
from recipe_runs import TINY
from torch import nn
from torchvision import models

from recipes.data.digits import multi_digits
from recipes.training.backbones import BACKBONES, backbone
from recipes.training.building import build_network
from recipes.training.engine import train
from recipes.training.presets import PRESETS

pytestmark = pytest.mark.recipes
LARGE = [name for name in BACKBONES if name.startswith(("vgg", "resnet"))]


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 36, 36), (3, 64, 48)])
@pytest.mark.parametrize("features", [64, 10])
@pytest.mark.parametrize("name", ["cnn", *LARGE])
def test_backbones_end_in_features_of_the_size_asked_for(name, features, shape):
    network = backbone(name)(shape, features, 8)
    out = network(torch.randn(2, *shape))
    assert out.shape == (2, features)
    out.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    projected = isinstance(network[-1] if isinstance(network, nn.Sequential) else None, nn.Linear)
    assert projected == (name == "cnn" or features != 64)  # 64 = 8 x width are their own


@pytest.mark.parametrize("name", LARGE)
def test_the_original_width_has_the_layers_of_the_original(name):
    """All but the stem of ResNet, and the fully connected layers."""
    own = backbone(name)((3, 32, 32), 512, 64)
    with torch.device("meta"):
        original = getattr(models, f"{name}_bn" if name.startswith("vgg") else name)()

    def sizes(network, skip):
        return [tuple(p.shape) for n, p in network.named_parameters() if not n.startswith(skip)]

    skip = ("conv1", "fc", "classifier")
    assert sizes(own, skip) == sizes(original, skip)


def test_a_small_image_keeps_its_pixels_through_the_stem_of_a_resnet():
    network = backbone("resnet18")((3, 32, 32), 64, 8)
    seen = []
    network.layer1.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape)))
    network(torch.zeros(2, 3, 32, 32))
    assert seen == [(2, 8, 32, 32)]


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_any_model_of_timm_is_a_backbone(name):
    network = backbone(f"timm/{name}")((1, 32, 48), 20, 8)
    assert network(torch.randn(2, 1, 32, 48)).shape == (2, 20)


def test_unknown_backbones_and_images_that_are_too_small_are_named():
    with pytest.raises(ValueError, match=r"backbone='vgg12': choose from cnn, .* timm/NAME"):
        replace(PRESETS["multi-digits"][1], backbone="vgg12")
    with pytest.raises(ValueError, match="backbone='timm/nonesuch': choose from"):
        backbone("timm/nonesuch")
    with pytest.raises(ValueError, match=r"vgg needs images of at least 32 x 32 pixels.* 31 x 40"):
        backbone("vgg11")((3, 40, 31), 8, 8)
    with pytest.raises(ValueError, match="cnn needs images of at least 4 x 4"):
        backbone("cnn")((3, 3, 8), 8, 8)
    with pytest.raises(ValueError, match=r"width=7: a ResNet needs at least 8, .*--backbone cnn"):
        backbone("resnet18")((3, 32, 32), 8, 7)
    with pytest.raises(ValueError, match=r"'timm/vit_tiny_patch16_224' cannot take images"):
        backbone("timm/vit_tiny_patch16_224")((3, 8, 8), 8, 8)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet10t"])
def test_large_backbones_train_on_small_images(name, tmp_path):
    # Four channels corrupt memory: the backward of a 1 x 1 convolution of stride 2 in torch 2.15
    # (channels_last, one thread, processors without AVX-512).
    config = replace(
        TINY, backbone=name, width=8, train_images=200, test_images=100, batch_size=100
    )
    result = train(replace(config, epochs=1, checkpoint_every=0, output=tmp_path / "run"))
    before, after = result.history
    assert after.train.loss != before.train.loss
    assert result.counts.model_parameters == sum(
        p.numel() for p in build_network(config, multi_digits()).parameters()
    )


@pytest.mark.parametrize("features", [6, 10])
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("mlp1", ["Linear", "BatchNorm1d", "ReLU"]),
        ("mlp12", ["Linear", "BatchNorm1d", "ReLU"]),
        ("mlp3-no-norm", ["Linear", "ReLU"]),
        ("mlp3-no-relu", ["Linear", "BatchNorm1d"]),
    ],
)
def test_fully_connected_layers(name, kinds, features):
    network = backbone(name)((1, 3, 5), features, 6)
    flatten, *blocks = network
    projection = None if features == 6 else blocks.pop()
    assert (type(flatten), type(projection)) == (
        nn.Flatten,
        nn.Linear if projection else type(None),
    )
    depth = int("".join(filter(str.isdigit, name)))
    assert [[type(layer).__name__ for layer in block] for block in blocks] == [kinds] * depth
    assert network(torch.randn(4, 1, 3, 5)).shape == (4, features)


@pytest.mark.parametrize("name", ["mlp", "mlp0", "mlp3-no", "mlp100", "mlp3-no-norm-no-relu"])
def test_other_names_of_fully_connected_layers_are_refused(name):
    with pytest.raises(ValueError, match=r"mlpDEPTH with 1 to 99 layers"):
        backbone(name)
