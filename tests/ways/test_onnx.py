"""Heads as ONNX models: ONNX Runtime gives the logits that PyTorch gives, for any batch size."""

import pytest
import torch

from tests.cases import all_logits
from tests.ways.networks import MAKERS, Network, batch

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize("kind", MAKERS)
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
