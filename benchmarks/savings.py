"""Savings of a fixed head, by architecture and number of classes.

For every architecture, built for K classes without weights (on the meta device): the parameters
of its classifiers, their share of the model, and what a fixed simplex ETF in their place saves of
AdamW's state and of a checkpoint. Where K > d + 1 there is no simplex ETF, and nothing is saved.
Beside it the figures that papers report, counted in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from benchmarks.harness import RESULTS, write_result
from benchmarks.published import published
from etf_heads import replace_head, savings
from etf_heads.surgery import find_heads, model_costs

CLASSES = (10, 100, 1000, 21841)
ARCHITECTURES = {
    "timm": (
        "beit_base_patch16_224",
        "convnext_atto",
        "convnext_tiny",
        "convnextv2_base",
        "deit_small_distilled_patch16_224",
        "dla34",
        "edgenext_small",
        "efficientnet_b0",
        "efficientnetv2_s",
        "ghostnet_100",
        "hrnet_w18",
        "inception_v4",
        "levit_128s",
        "maxvit_tiny_tf_224",
        "mixer_b16_224",
        "mobilenetv3_large_100",
        "mobilenetv4_conv_small",
        "mobilevit_s",
        "nfnet_l0",
        "poolformer_s12",
        "regnety_040",
        "repvit_m1",
        "resnetv2_50",
        "seresnet50",
        "swin_tiny_patch4_window7_224",
        "vit_tiny_patch16_224",
        "vit_small_patch16_224",
        "vit_large_patch16_224",
        "xception41",
    ),
    "torchvision": (
        "alexnet",
        "densenet121",
        "densenet169",
        "mnasnet1_0",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "shufflenet_v2_x1_0",
        "squeezenet1_1",
        "vgg16",
        "vit_b_16",
        "wide_resnet50_2",
    ),
}
OPTIMIZER = "AdamW"


def main(output: Path = RESULTS / "savings.json") -> None:
    """Count everything, and write it.

    Args:
        output: JSON file to write.
    """
    rows = []
    for library, names in ARCHITECTURES.items():
        for name in names:
            rows += [row(library, name, classes) for classes in CLASSES]
            print(library, name, *(f"{r['share']:.2%}" for r in rows[-len(CLASSES) :]), flush=True)
    result = {"optimizer": OPTIMIZER, "rows": rows, "published": published()}
    write_result(output, "cpu", result)


def row(library: str, name: str, classes: int) -> dict[str, Any]:
    """Counts of one architecture for K classes; ``saved`` is None where no ETF exists."""
    with torch.device("meta"):
        model = build(library, name, classes)
    before = model_costs(model, OPTIMIZER)
    heads: Mapping[str, Any] = find_heads(model)
    head_parameters = sum(p.numel() for h in heads.values() for p in h.parameters())
    features = min(classifier.weight.shape[1] for classifier in heads.values())
    saved = None
    if classes <= features + 1:
        saved = savings(before, replace_head(model, classes), OPTIMIZER).saved
    return {
        "library": library,
        "architecture": name,
        "classes": classes,
        "features": features,
        "classifiers": len(heads),
        "parameters": before.parameters,
        "head_parameters": head_parameters,
        "share": head_parameters / before.parameters,
        "optimizer_state_bytes": before.optimizer_state_bytes,
        "checkpoint_bytes": before.checkpoint_bytes,
        "saved": saved,
    }


def build(library: str, name: str, classes: int) -> nn.Module:
    """An architecture by its name, without pretrained weights."""
    if library == "timm":
        import timm  # noqa: PLC0415 (an extra)

        return timm.create_model(name, num_classes=classes)
    from torchvision.models import get_model  # noqa: PLC0415

    return get_model(name, num_classes=classes)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.savings", description=__doc__)
