"""Models of the libraries come back with their fixed heads, built anew as the library does."""

import pytest
import torch

from etf_heads import replace_head
from etf_heads.surgery import find_heads, load_model, save_model
from tests.surgery.architectures import BY_NAME, TASKS, logits_of

pytestmark = pytest.mark.recipes


@pytest.mark.parametrize(
    "name",
    [
        "timm-test_vit",
        "timm-dla46_c",
        "timm-crossvit_9_240",
        "timm-levit_128s",
        "torchvision-googlenet",
        "torchvision-lraspp_mobilenet_v3_large",
        "transformers-DeiTForImageClassificationWithTeacher",
        "transformers-LlamaForSequenceClassification",
        "transformers-RobertaForTokenClassification",
    ],
)
@torch.no_grad()
def test_round_trip(name, tmp_path):
    architecture, path = BY_NAME[name], tmp_path / "model.safetensors"
    model = replace_head(architecture.build(), TASKS, feature_norm="batch", orientation="hadamard")
    save_model(model, path)
    twin = load_model(architecture.build(classes=3), path)
    assert repr(find_heads(twin)) == repr(find_heads(model))
    ours, theirs = (logits_of(m(architecture.inputs())) for m in (model, twin))
    for key in ours:
        assert list(theirs[key]) == list(TASKS)
        assert all(torch.equal(theirs[key][task], ours[key][task]) for task in TASKS)
