"""The README's code runs, and its numbers are those of the committed result."""

import pytest
import torch

from tools import readme


@pytest.mark.parametrize("number", range(len(readme.blocks("python"))))
def test_python_blocks_run(number, tmp_path, monkeypatch):
    block = readme.blocks("python")[number]
    if "import timm" in block:
        pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)  # where a block may write
    exec(compile(block, f"README block {number}", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("side", ["-", "+"])
def test_both_sides_of_the_diff_train(side):
    (diff,) = readme.blocks("diff")
    lines = [line[1:] for line in diff.splitlines() if line[:1] in (" ", side, "")]
    images = torch.randn(32, 1, 8, 16)
    labels = {task: torch.randint(10, (32,)) for task in ("left", "right")}
    namespace = {"loader": [(images, labels)] * 30}
    exec(compile("\n".join(lines), "README diff", "exec"), namespace)  # noqa: S102
    assert namespace["loss"] < 2 * torch.tensor(10.0).log()  # below chance: it has learned
    head_parameters = list(namespace["model"].head.parameters())
    assert bool(head_parameters) == (side == "-")


def test_there_are_two_commands_for_a_newcomer():
    main_job, tests = readme.commands()
    assert "recipes/compare.py" in main_job
    assert "pytest" in tests


@pytest.mark.recipes
@pytest.mark.parametrize("file", readme.TABLES)
def test_the_tables_are_those_of_the_committed_results(file):
    assert readme.generated(file) == readme.expected(file), "run: python tools/readme.py write"
