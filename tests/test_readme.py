"""The README's code runs."""

import pytest
import torch

from tests.readme_blocks import blocks, commands

TRAINERS = ("lightning", "transformers", "timm.utils")
BLOCKS = blocks("python")


def trainers_of(block):
    return [name for name in TRAINERS if f"import {name}" in block or f"from {name}" in block]


def run(block):
    exec(compile(block, "README block", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("block", [b for b in BLOCKS if not trainers_of(b)])
def test_python_blocks_run(block, tmp_path, monkeypatch):
    if "import timm" in block:
        pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)  # where a block may write
    run(block)


@pytest.mark.filterwarnings("ignore")  # what the trainers say of machines without accelerator
@pytest.mark.parametrize("trainer", TRAINERS)
def test_blocks_of_trainers_run(trainer, tmp_path, monkeypatch):
    pytest.importorskip(trainer, reason=f"{trainer} is in the trainers extra")
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in BLOCKS if trainer in trainers_of(block))
    run(block)


@pytest.mark.parametrize("side", ["-", "+"])
def test_both_sides_of_the_diff_train(side):
    (diff,) = blocks("diff")
    lines = [line[1:] for line in diff.splitlines() if line[:1] in (" ", side, "")]
    images = torch.randn(32, 1, 8, 16)
    labels = {task: torch.randint(10, (32,)) for task in ("left", "right")}
    namespace = {"loader": [(images, labels)] * 30}
    exec(compile("\n".join(lines), "README diff", "exec"), namespace)  # noqa: S102
    assert namespace["loss"] < 2 * torch.tensor(10.0).log()  # below chance: it has learned
    head_parameters = list(namespace["model"].head.parameters())
    assert bool(head_parameters) == (side == "-")


def test_there_are_two_commands_for_a_newcomer():
    comparison, tests = commands()
    assert "recipes/compare.py" in comparison
    assert "pytest" in tests
