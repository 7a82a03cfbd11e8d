"""The notebooks of docs/ run as they are, from a clean file."""

import json

import pytest

pytestmark = pytest.mark.recipes
for package in ("matplotlib", "sklearn", "timm"):
    pytest.importorskip(package)

from docs.run_notebooks import NOTEBOOKS, page  # noqa: E402


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


FEW = {"digits.images": "digits.images[:300]", "digits.target": "digits.target[:300]"}
SHORTER = {
    "many_classes": {"steps=400": "steps=50"},
    "missing_labels": {"epochs=12": "epochs=2"},
    "swap_head": {"epochs=4": "epochs=1", **FEW},
}
"""Trainings as they are, and here; the site is built of whole ones."""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_show_pictures(notebook, tmp_path):
    text = notebook.read_text("utf-8")
    for long, short in SHORTER[notebook.stem].items():
        assert long in text
        text = text.replace(long, short)
    notebook = tmp_path / notebook.name
    notebook.write_text(text, "utf-8")
    text, pictures = page(notebook)
    assert len(pictures) >= 2
    assert "```text\n" in text  # numbers, computed here
    for name, svg in pictures.items():
        assert f"]({name})" in text
        assert "<svg" in svg
    assert "![](" not in text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_no_output(notebook):
    saved = json.loads(notebook.read_text("utf-8"))
    code = [cell for cell in saved["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    ids = [cell["id"] for cell in saved["cells"]]
    assert len(ids) == len(set(ids))


def test_a_figure_without_a_title_is_refused(tmp_path):
    cell = {
        "cell_type": "code",
        "source": ["from matplotlib import pyplot as plt\n", "plt.figure()"],
    }
    notebook = tmp_path / "untitled.ipynb"
    notebook.write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(ValueError, match="a figure has no title"):
        page(notebook)
