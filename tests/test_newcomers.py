"""Four newcomers get through with what the documentation shows, and nothing else."""

import pytest
import torch

from etf_heads import CompoundETFHead, ETFHead
from etf_heads.surgery import find_heads
from tests.readme_blocks import NEWCOMERS, blocks

pytestmark = pytest.mark.filterwarnings("ignore")  # what libraries say of machines and exporters


def follow(newcomer):
    """Names that are left after the block has run."""
    page, number = NEWCOMERS[newcomer]
    names = {}
    exec(compile(blocks("python", page)[number - 1], str(page), "exec"), names)  # noqa: S102
    return names


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a block may write


def test_a_model_of_timm_is_trained_saved_and_loaded():
    pytest.importorskip("timm")
    names = follow("timm")
    for model in (names["model"], names["twin"]):
        (head,) = find_heads(model).values()
        assert isinstance(head, ETFHead)
        assert not list(head.parameters())
    assert names["loss"].isfinite()


def test_a_classifier_of_transformers_is_trained_saved_and_loaded():
    pytest.importorskip("transformers")
    names = follow("transformers")
    model, twin = (names[name].eval() for name in ("model", "twin"))
    tokens = torch.randint(50, (2, 8))
    ours, theirs = (network(input_ids=tokens).logits for network in (model, twin))
    assert {task: tuple(z.shape) for task, z in ours.items()} == {"topic": (2, 4), "mood": (2, 3)}
    assert all(torch.equal(ours[task], theirs[task]) for task in ours)


def test_three_tasks_with_missing_labels_are_trained_and_measured():
    names = follow("missing labels")
    assert isinstance(names["model"].head, CompoundETFHead)
    assert len(names["tasks"]) == 3
    assert (names["labels"]["age"] == -100).any()
    assert all(parameter.isfinite().all() for parameter in names["model"].parameters())
    assert names["collapse"]["s_nc3"] == pytest.approx(0, abs=1e-6)


def test_a_network_is_exported_to_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    names = follow("onnx")
    assert (tmp_path / "model.onnx").stat().st_size > 0
    assert names["logits"].shape == (1, 10)  # of the second batch, of another size
