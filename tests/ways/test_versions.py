"""Checkpoints that another version of torch wrote load, and give the logits that it gave."""

import pytest
import torch

from etf_heads.surgery import load_model
from tests.ways.write_checkpoint import FOLDER, Network, bare, main

# Of torch's CPU builds, by python -m tests.ways.write_checkpoint.
WRITTEN = sorted(path.stem for path in FOLDER.glob("*.pt"))


def test_there_are_checkpoints_of_several_versions():
    assert {"torch-2.13.0", "torch-2.15.0"} <= set(WRITTEN)


@pytest.mark.parametrize("name", [*WRITTEN, "this version"])
def test_state_dict_and_model_file_load(name, tmp_path):
    folder = FOLDER
    if name == "this version":
        main(tmp_path)
        folder, name = tmp_path, next(tmp_path.glob("*.pt")).stem
    written = torch.load(folder / f"{name}.pt", weights_only=True)
    network = Network().eval()
    network.load_state_dict(written["model"])
    brought = load_model(bare().eval(), folder / f"{name}.safetensors")
    for ours in (network, brought):
        torch.testing.assert_close(
            ours(written["images"]).detach(), written["logits"], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", WRITTEN)
def test_metadata_of_another_version_is_understood(name):
    written = torch.load(FOLDER / f"{name}.pt", weights_only=True)
    network = Network()
    network.heads["tiled"], network.heads["random"] = (
        network.heads["random"],
        network.heads["tiled"],
    )
    with pytest.raises(RuntimeError, match="the checkpoint is of another head: tasks"):
        network.load_state_dict(written["model"])
