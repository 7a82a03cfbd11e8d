"""The code of the README and of docs/ runs."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.processes import in_processes
from tests.readme_blocks import NEWCOMERS, PAGES, README, ROOT, blocks, commands

OPTIONAL = ("lightning", "transformers", "timm", "onnxscript", "onnxruntime", "matplotlib")
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in (README, *PAGES)
    for number, block in enumerate(blocks("python", page), start=1)
    if (page, number) not in NEWCOMERS.values()  # these are run by tests/test_newcomers.py
]


@pytest.mark.filterwarnings("ignore")  # what libraries say of machines without accelerator
@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block, tmp_path, monkeypatch):
    for name in OPTIONAL:
        if re.search(rf"^(import|from) {name}\b", block, re.MULTILINE):
            pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)  # where a block may write
    if "__main__" not in block:
        exec(compile(block, "block", "exec"), {})  # noqa: S102
        return
    # Its processes import it, and are forked from one that has imported torch.
    main = block.replace('if __name__ == "__main__":', "def main():")
    Path("several_processes.py").write_text(main, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        torch.multiprocessing,
        "spawn",
        lambda work, arguments, nprocs: in_processes(work, *arguments, size=nprocs),
    )
    import_module("several_processes").main()


@pytest.mark.parametrize("side", ["-", "+"])
def test_both_sides_of_the_diff_train(side):
    (diff,) = blocks("diff")
    lines = [line[1:] for line in diff.splitlines() if line[:1] in (" ", side, "")]
    loader = [(torch.randn(32, 1, 8, 16), torch.randint(10, (32,)))] * 30
    namespace = {"loader": loader}
    exec(compile("\n".join(lines), "README diff", "exec"), namespace)  # noqa: S102
    assert namespace["loss"] < torch.tensor(10.0).log()  # below chance: it has learned
    head_parameters = list(namespace["model"][1].parameters())
    assert bool(head_parameters) == (side == "-")


def test_there_are_two_commands_for_a_newcomer():
    comparison, tests = commands()
    assert "recipes/compare.py" in comparison
    assert "pytest" in tests


def test_links_of_the_readme_are_absolute_for_pypi():
    targets = re.findall(r"\]\(([^)]+)\)", README.read_text("utf-8"))
    assert targets
    assert all(target.startswith("https://") for target in targets)
