"""Heads as ONNX models: ONNX Runtime gives the logits that PyTorch gives, for any batch size."""

import io
from itertools import cycle, product

import pytest
import torch
from torch import nn

from etf_heads import (
    ClassMeanHead,
    CompoundETFHead,
    CorrelatedETFHead,
    ETFHead,
    NearestETFHead,
    SphericalCodeHead,
)
from tests.cases import all_logits, observed
from tests.ways.networks import MAKERS, Network, batch

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


BY_DEFAULT = "prototypes"  # the others as below, without a network before them


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == BY_DEFAULT else pytest.mark.slow) for kind in MAKERS],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # inside the exporter
def test_onnx_runtime_agrees(kind, tmp_path):
    network = Network(kind).eval()
    if hasattr(network.head, "observe"):
        images, labels = batch()
        network.head.observe(network.backbone(images).detach(), labels.unbind(1))
    shapes = {"images": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(
        network, (batch()[0],), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    program.save(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    for size in (1, 5):
        images, _ = batch(size)
        outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        ours = torch.cat([torch.from_numpy(z) for z in outputs], dim=-1)
        torch.testing.assert_close(ours, all_logits(network(images)), rtol=0, atol=1e-5)


TASKS = {"left": 5, "right": 4}
COUNTS = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) + 0.1
NAMED_HEADS = {
    "one": lambda norm: ETFHead(24, 10, feature_norm=norm),  # 24 is no multiple of 10
    "compound": lambda norm: CompoundETFHead(24, TASKS, bias=True, feature_norm=norm),
    "correlated": lambda norm: CorrelatedETFHead(24, TASKS, COUNTS, feature_norm=norm),
    "nearest": lambda norm: NearestETFHead(24, TASKS, feature_norm=norm),
    "class means": lambda norm: ClassMeanHead(24, TASKS, feature_norm=norm),
    "spherical": lambda norm: SphericalCodeHead(24, 60, feature_norm=norm),
}
NORMS = ("batch", "layer", "unit", "learned", None)


def made(kind, norm):
    """A head in eval mode whose batch normalisation has seen other features than its start."""
    head = NAMED_HEADS[kind](nn.BatchNorm1d(24) if norm == "learned" else norm)
    features, labels = observed(TASKS, dim=24, dtype=torch.float32)
    with torch.no_grad():
        if norm == "learned":
            nn.init.uniform_(head.norm.weight)
            nn.init.uniform_(head.norm.bias)
        head(2 * features + 1)
        if hasattr(head, "observe"):
            head.observe(features, labels)
    return head.eval()


def check_exported(head, example, **how):
    file = io.BytesIO()
    torch.onnx.export(head, (example,), file, input_names=["x"], verbose=False, **how)
    session = onnxruntime.InferenceSession(file.getvalue())
    for size in (1, 5):
        x = torch.randn(size, *example.shape[1:])
        outputs = session.run(None, {"x": x.numpy()})
        ours = torch.cat([torch.from_numpy(z) for z in outputs], dim=-1)
        torch.testing.assert_close(ours, all_logits(head(x)), rtol=0, atol=2e-5)


FEW = list(zip(NAMED_HEADS, cycle(NORMS), strict=False))
"""Each kind and each norm: what a head does to features does not depend on their norm."""


def pairs(chosen):
    """Kinds and norms, those that are not among the chosen ones only with ``-m slow``."""
    cases = [
        pair if pair in chosen else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in product(NAMED_HEADS, NORMS)
    ]
    return pytest.mark.parametrize(("kind", "norm"), cases)


@pairs(FEW)
@pytest.mark.filterwarnings("ignore")  # the exporter that records is deprecated, and says so
def test_the_exporter_that_records_agrees(kind, norm):
    head = made(kind, norm)
    for shape in [(3, 24), (3, 2, 24)]:
        example = torch.randn(shape)
        check_exported(head, example, dynamo=False, dynamic_axes={"x": {0: "batch"}})


@pairs(FEW[::2])  # seconds a head
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_the_exporter_that_compiles_agrees(kind, norm):
    shapes = {"features": {0: torch.export.Dim("batch")}}
    check_exported(made(kind, norm), torch.randn(3, 24), dynamo=True, dynamic_shapes=shapes)
