"""Notebooks as pages: cells are run each time the site is built, and shown with their output."""

from __future__ import annotations

import io
import json
import os
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))
GREY = "#8a8f98"  # legible on white and on dark
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "grid.color"), GREY),
    **dict.fromkeys(("xtick.color", "ytick.color", "legend.labelcolor"), GREY),
    "axes.facecolor": "none",
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.hashsalt": "etf_heads",  # the same numbers give the same file
}


def cells(notebook: Path) -> list[dict[str, Any]]:
    """Cells in order; ``source`` is their text."""
    found = json.loads(notebook.read_text("utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def page(notebook: Path) -> tuple[str, dict[str, str]]:
    """The notebook as Markdown, and its figures as SVG by the names under which it shows them.

    Raises:
        ValueError: if a figure has no title, which is what a screen reader says of it.
    """
    parts, pictures, names = [], {}, {"__name__": "__main__"}
    with mpl.rc_context(STYLE), _elsewhere():
        plt.switch_backend("svg")  # draws without a screen
        for cell in cells(notebook):
            if cell["cell_type"] == "markdown":
                parts.append(cell["source"])
                continue
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(cell["source"], notebook.name, "exec"), names)  # noqa: S102
            parts.append(f"```python\n{cell['source']}\n```")
            if printed.getvalue():
                parts.append(f"```text\n{printed.getvalue()}```")
            for said, svg in _figures(notebook):
                name = f"{notebook.stem}-{len(pictures)}.svg"
                pictures[name] = svg
                parts.append(f"![{said}]({name})")
    parts.append(f"[Download this notebook]({notebook.name})")
    return "\n\n".join(parts), pictures


def _figures(notebook: Path) -> Iterator[tuple[str, str]]:
    """Titles and SVG of the figures that a cell has drawn, which are closed."""
    for figure in map(plt.figure, plt.get_fignums()):
        titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
        if not titles:
            raise ValueError(f"{notebook.name}: a figure has no title")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        yield "; ".join(titles), buffer.getvalue()
    plt.close("all")


@contextmanager
def _elsewhere() -> Iterator[None]:
    """A working directory where a notebook may write."""
    here = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)


@lru_cache
def _cached(notebook: Path, _: int) -> tuple[str, dict[str, str]]:
    """Pages that have not changed while ``mkdocs serve`` watches."""
    return page(notebook)


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs with all files of the site."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - the tests have no MkDocs

    for notebook in NOTEBOOKS:
        text, pictures = _cached(notebook, notebook.stat().st_mtime_ns)
        for name, content in {f"{notebook.stem}.md": text, **pictures}.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files
