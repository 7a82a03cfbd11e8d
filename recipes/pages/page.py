"""Pages that are one file: a template over ``page.html.jinja``, filled in and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from recipes.provenance import Provenance

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Figure:
    """An ``<svg>`` element of :func:`recipes.pages.canvas.svg_text`, and what stands below it."""

    svg: str
    caption: str


def write_page(template: Path, context: Mapping[str, Any], path: Path) -> None:
    """Render a page; everything in it is inside the one file.

    Args:
        template: a file that extends ``page.html.jinja`` of this room. Every page takes ``title``,
            ``verdict``, ``cards`` (``value`` and ``label`` each) and ``facts`` (how it was
            measured).
        context: what the template takes; escaped unless the template says otherwise.
        path: the file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(template.name).render(**context)
    path.write_text(_with_contents(text), encoding="utf-8")


def _with_contents(text: str) -> str:
    """A page whose headings are listed at its beginning."""
    titles = re.findall("<h2>(.*?)</h2>", text)
    for number in range(len(titles)):
        text = text.replace("<h2>", f'<h2 id="part{number}">', 1)
    items = "".join(f'<li><a href="#part{n}">{title}</a></li>' for n, title in enumerate(titles))
    return text.replace("></nav>", f"><ol>{items}</ol></nav>", 1)


def origin(provenance: Provenance) -> dict[str, str]:
    """Facts of a page: the provenance of its numbers, in words."""
    packages = ", ".join(f"{name} {version}" for name, version in provenance.packages.items())
    device = [provenance.device]
    if provenance.processes is not None:
        device.append(f"{provenance.processes} process(es)")
    device.append(f"{provenance.cpu_threads} CPU threads")
    if provenance.mixed_precision:
        device.append(f"precision {provenance.mixed_precision}")
    return {
        "commit": str(provenance.commit),
        "date": provenance.date,
        "device": ", ".join(device),
        "packages": f"{packages}, Python {provenance.python}",
    }


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """Settings that are set, as ``name=value`` with commas."""
    return ", ".join(f"{k}={v}" for k, v in settings.items() if v not in (None, [], ()))
