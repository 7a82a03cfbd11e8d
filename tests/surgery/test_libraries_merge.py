"""Models of the libraries, merged, load strictly into what the library builds."""

import pytest
import torch

from etf_heads import replace_head
from etf_heads.surgery import find_heads, merge
from tests.surgery.architectures import BY_NAME, TASKS, logits_of

pytestmark = pytest.mark.recipes
TOTAL = sum(TASKS.values())


@pytest.mark.parametrize(
    "name",
    [
        "timm-test_vit",
        "timm-dla46_c",
        "timm-levit_128s",
        "torchvision-googlenet",
        "transformers-DeiTForImageClassificationWithTeacher",
        "transformers-LlamaForSequenceClassification",
    ],
)
@torch.no_grad()
def test_a_merged_model_is_a_plain_one(name):
    architecture = BY_NAME[name]
    build = lambda: architecture.build(classes=TOTAL)  # noqa: E731
    plain, bias = build(), "Llama" not in name  # whose classifier has no bias
    norm = "batch" if bias else None
    model = replace_head(build(), TASKS, feature_norm=norm, orientation="hadamard").eval()
    before = logits_of(model(architecture.inputs()))
    plain.load_state_dict(merge(model, bias=bias).state_dict(), strict=True)
    kinds = [type(layer) for layer in find_heads(plain).values()]
    assert [type(layer) for layer in find_heads(model).values()] == kinds
    after, ours = (logits_of(m.eval()(architecture.inputs())) for m in (plain, model))
    for key in before:
        for task in TASKS:
            torch.testing.assert_close(ours[key][task], before[key][task], rtol=0, atol=1e-4)
        dim = 1 if architecture_is_spatial(after[key]) else -1
        logits = torch.cat([before[key][task] for task in TASKS], dim)
        torch.testing.assert_close(after[key], logits, rtol=0, atol=1e-4)


def architecture_is_spatial(logits):
    return logits.ndim > 2 and logits.shape[1] == TOTAL
