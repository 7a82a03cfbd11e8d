"""Pictures of the concepts page, drawn by the library each time the site is built."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etf_heads import CompoundETFHead, CorrelatedETFHead, SphericalCodeHead
from etf_heads.geometry import simplex_etf

FOLDER = Path(__file__).parent / "pictures"
BLUE, ORANGE, GREY = "#5b8def", "#e08b2c", "#8a8f98"  # legible on white and on dark


def svg(width: int, height: int, title: str, parts: list[str]) -> str:
    """A whole file; the title is what a screen reader says."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="18" fill="{GREY}"><title>{title}</title>'
        f"{''.join(parts)}</svg>\n"
    )


def arrow(x: float, y: float, dx: float, dy: float, colour: str) -> str:
    """A line from (x, y) with a dot at its end."""
    end = f"{x + dx:.1f}", f"{y + dy:.1f}"
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{end[0]}" y2="{end[1]}" stroke="{colour}" '
        f'stroke-width="2.5"/><circle cx="{end[0]}" cy="{end[1]}" r="5" fill="{colour}"/>'
    )


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    """Words, middle or start at x."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def etf() -> str:
    """Class vectors of simplex ETFs of two, three and four classes, seen from one side."""
    view = torch.tensor([[0.92, -0.39, 0.0], [0.17, 0.40, -0.90]], dtype=torch.float64)
    parts = []
    for place, classes in enumerate((2, 3, 4)):
        vectors = simplex_etf(classes)
        basis = torch.linalg.svd(vectors)[2][: classes - 1]
        flat = vectors @ basis.T
        flat = (
            flat @ view[:, :3].T
            if classes == 4
            else torch.nn.functional.pad(flat, (0, 3 - classes))
        )
        x = 110 + 210 * place
        parts += [arrow(x, 105, 80 * u, -80 * v, BLUE) for u, v in flat[:, :2].tolist()]
        parts.append(
            text(x, 225, f"K = {classes}: cosine {'-1' if classes == 2 else f'-1/{classes - 1}'}")
        )
    return svg(640, 240, "Class vectors of simplex ETFs of two, three and four classes", parts)


def compound() -> str:
    """Cosines between the class vectors of three tasks."""
    head = CompoundETFHead(16, {"five": 5, "four": 4, "three": 3}, dtype=torch.float64)
    gram = head.weight @ head.weight.T
    side, left = 24, 90
    parts = [
        f'<rect x="{left + side * j}" y="{10 + side * i}" width="{side - 1}" height="{side - 1}" '
        f'fill="{BLUE if value > 0 else ORANGE}" fill-opacity="{abs(value):.2f}" '
        f'stroke="{GREY}" stroke-width="0.4"/>'
        for i, row in enumerate(gram.tolist())
        for j, value in enumerate(row)
    ]
    for name, middle in zip(("5 classes", "4 classes", "3 classes"), (2.5, 7, 10.5), strict=True):
        parts.append(text(left - 8, 14 + side * middle, name, "end"))
    notes = ("1: with itself", "-1/(K - 1): within a task", "0: between tasks")
    for row, (note, (colour, opacity)) in enumerate(
        zip(notes, ((BLUE, 1), (ORANGE, 0.33), (GREY, 0)), strict=True)
    ):
        y = 60 + 34 * row
        parts.append(
            f'<rect x="400" y="{y}" width="20" height="20" fill="{colour}" '
            f'fill-opacity="{opacity}" stroke="{GREY}" stroke-width="0.4"/>'
        )
        parts.append(text(430, y + 15, note, "start"))
    return svg(640, 310, "Cosines of the class vectors of a compound head of three tasks", parts)


def bent() -> str:
    """Class vectors of two binary tasks whose labels agree more and more often."""
    parts = []
    for place, agreement in enumerate((0.5, 0.75, 0.95)):
        same, other = agreement / 2, (1 - agreement) / 2
        counts = torch.tensor([[same, other], [other, same]], dtype=torch.float64)
        head = CorrelatedETFHead(8, {"a": 2, "b": 2}, counts, dtype=torch.float64)
        cosine = float(head.task_weight("a")[0] @ head.task_weight("b")[0])
        x, half = 110 + 210 * place, math.acos(cosine) / 2
        for sign, colour in ((1, BLUE), (-1, ORANGE)):
            u, v = math.cos(sign * half + math.pi / 4), math.sin(sign * half + math.pi / 4)
            parts += [arrow(x, 105, s * 80 * u, -s * 80 * v, colour) for s in (1, -1)]
        parts.append(text(x, 215, f"labels agree in {agreement:.0%}"))
        parts.append(text(x, 237, f"cosine {cosine:.2f}"))
    return svg(640, 245, "Class vectors of two tasks bend towards each other", parts)


def kerdock() -> str:
    """How many pairs have which cosine: 288 vectors of a Kerdock code, and random ones."""
    dim = 16
    classes = dim * (dim + 2)
    code = SphericalCodeHead(dim, classes, scale=1.0, dtype=torch.float64).weight
    seeded = torch.Generator().manual_seed(0)
    random = torch.randn(classes, dim, dtype=torch.float64, generator=seeded)
    random /= random.norm(dim=1, keepdim=True)
    bins = 41
    parts = []
    for place, (vectors, colour, name) in enumerate(
        ((code, BLUE, "Kerdock code"), (random, ORANGE, "random directions"))
    ):
        cosines = _cosines(vectors)
        counts = torch.histc(cosines, bins, -1.025, 1.025)
        shares = (counts / counts.sum()).tolist()
        base = 130 + 150 * place
        for i, share in enumerate(shares):
            if share:
                height = 110 * math.sqrt(share)
                parts.append(
                    f'<rect x="{60 + 12.5 * i:.1f}" y="{base - height:.1f}" width="11" '
                    f'height="{height:.1f}" fill="{colour}"/>'
                )
        largest = float(cosines.max())
        parts.append(
            f'<line x1="55" x2="580" y1="{base}" y2="{base}" stroke="{GREY}" stroke-width="1"/>'
        )
        parts.append(text(60, base - 92, f"{name}: largest cosine {largest:.2f}", "start"))
    ticks = (-1, -0.5, 0, 0.5, 1)
    parts += [text(315.5 + 250 * tick, 300, f"{tick:g}") for tick in ticks]
    return svg(640, 310, "Cosines between 288 class vectors in 16 dimensions", parts)


def _cosines(vectors: Tensor) -> Tensor:
    gram = vectors @ vectors.T
    above = torch.triu_indices(len(gram), len(gram), 1)
    return gram[above[0], above[1]]


PICTURES = {"etf": etf, "compound": compound, "bent": bent, "kerdock": kerdock}


def on_pre_build(**_: Any) -> None:
    """Called by MkDocs before it looks for files."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        file, drawn = FOLDER / f"{name}.svg", draw()
        if not file.exists() or file.read_text("utf-8") != drawn:  # mkdocs serve watches the folder
            file.write_text(drawn, "utf-8")
