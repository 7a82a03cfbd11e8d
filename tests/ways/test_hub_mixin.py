"""Networks of one's own on the Hugging Face Hub: the mixin of huggingface_hub, on local folders."""

import json

import pytest
import torch
from torch import nn

from etf_heads import CompoundETFHead
from tests.ways.trainer_checks import TASKS, check_same_logits

hub = pytest.importorskip("huggingface_hub", reason="it comes with timm and transformers")
pytestmark = pytest.mark.recipes


class Network(nn.Module, hub.PyTorchModelHubMixin):
    """Its arguments are JSON, and what the head is follows from them."""

    def __init__(self, tasks: dict, orientation: str = "tiled", bias: bool = False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.head = CompoundETFHead(
            16, tasks, bias, orientation=orientation, feature_norm="batch", learn_scale=True
        )

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("options", [{}, {"orientation": "random:3", "bias": True}])
def test_what_is_pushed_is_what_is_pulled(options, tmp_path):
    network = Network(TASKS, **options)
    network(torch.randn(20, 8) + 1)
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.uniform_(1, 2)
    network.save_pretrained(tmp_path)
    twin = Network.from_pretrained(tmp_path, strict=True)
    assert repr(twin) == repr(network)
    check_same_logits(network, twin, torch.randn(5, 8))
    again = tmp_path / "again"
    twin.save_pretrained(again)
    check_same_logits(network, Network.from_pretrained(again, strict=True), torch.randn(5, 8))


def test_arguments_in_the_folder_decide_which_head_it_is(tmp_path):
    # The weights are plain safetensors: they do not know the orientation, config.json does.
    network = Network(TASKS)
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"tasks": TASKS, "orientation": "tiled", "bias": False}
    other = Network.from_pretrained(tmp_path, strict=True, orientation="hadamard")
    x = torch.randn(5, 8)
    assert not torch.equal(other.eval()(x)["left"], network.eval()(x)["left"])
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        Network.from_pretrained(tmp_path, strict=True, bias=True)
