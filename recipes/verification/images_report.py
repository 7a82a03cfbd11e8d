"""The correlation sweep on images as a table in the terminal, and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.page import origin, settings_in_words, write_page
from recipes.report import Line, percent
from recipes.verification import figures
from recipes.verification.effective import LOWEST, closed_form, limit_cosine

Summary = dict[str, Any]
"""What ``theory_images.json`` holds."""


def images_table(summary: Summary) -> list[Line]:
    """Lines of text, a column a share; the first line names the shares."""
    shares, heads, fits = summary["shares"], summary["heads"], summary["fits"]
    empty = [""] * len(shares)
    table: list[Line] = [("p", *(f"{share:g}" for share in shares))]
    table.append(("cosine between the tasks", *empty))
    limits = (f"{limit_cosine(share):.3f}" for share in shares)
    table.append(("  closed form, λ_W λ_H N → 0", *limits))
    for name, cells in heads.items():
        table.append((f"  {name}", *(_number(cell["cosine"]) for cell in cells)))
        if name in fits:
            curve = closed_form(shares, fits[name]["strength"])
            table.append(("    closed form, one fitted number", *(f"{c:.3f}" for c in curve)))
            found = [cell["effective"] for cell in cells]
            implied = (f"{f['cosine_from_margins']:.3f}" for f in found)
            table.append(("    from its logit gaps", *implied))
    for measure, title in (
        ("at_share", "test accuracy, labels correlated as in training"),
        ("different", "test accuracy on images with different labels"),
        ("balanced", "test accuracy, labels independent"),
    ):
        table.append((title, *empty))
        table += [
            (f"  {name}", *(percent(cell[measure]) for cell in cells))
            for name, cells in heads.items()
        ]
    for name in fits:
        found = [cell["effective"] for cell in heads[name]]
        table.append((f"effective λ's of {name}", *empty))
        for key, title in (
            ("strength_equal", "λ_W λ_H N from gaps, equal labels"),
            ("strength_different", "the same, different labels"),
            ("lambda_w", "λ_W"),
            ("lambda_h", "λ_H"),
        ):
            table.append((f"  {title}", *(f"{f[key]:.1e}" for f in found)))
    return table


def images_verdict(summary: Summary) -> str:
    """What the angles say, and what the accuracies say, by rule."""
    sentences = [_fit_in_words(name, fit) for name, fit in summary["fits"].items()]
    heads = summary["heads"]
    rivals = [r for r in ("learned-norm", "compound") if {"correlated", r} <= set(heads)]
    sentences += [_accuracy_in_words(summary, rival) for rival in rivals]
    return " ".join(sentences)


def _fit_in_words(name: str, fit: Mapping[str, float]) -> str:
    bound = fit["strength"] < 1.5 * LOWEST
    number = f"{LOWEST:g}, the least allowed" if bound else f"{fit['strength']:.1e}"
    return (
        f"Over all p, the cosines of the head “{name}” are {fit['rms']:.3f} from the closed form "
        f"in root mean square, with one number fitted, λ_W λ_H N = {number}; they are "
        f"{fit['rms_from_limit']:.3f} from its limit for λ's of zero, with nothing fitted."
    )


def _accuracy_in_words(summary: Summary, rival: str) -> str:
    better, worse = [], []
    rows = zip(
        summary["shares"], summary["heads"]["correlated"], summary["heads"][rival], strict=True
    )
    for share, mine, other in rows:
        difference = mine["balanced"]["mean"] - other["balanced"]["mean"]
        spread = max(mine["balanced"]["half"] or 0, other["balanced"]["half"] or 0)
        if abs(difference) > spread:
            (better if difference > 0 else worse).append(f"{share:g}")
    parts = [
        f"{sense} at p = {', '.join(where)}"
        for sense, where in (("better", better), ("worse", worse))
        if where
    ]
    found = " and ".join(parts) or "no different at any p"
    return (
        f"On test images with independent labels “correlated” is {found} than “{rival}”, beyond "
        "the wider of the two 95% intervals."
    )


def write_images_report(summary: Summary, path: Path) -> None:
    """Render the page."""
    shares, heads, fits = summary["shares"], summary["heads"], summary["fits"]
    seeds = sorted({run["seed"] for run in summary["runs"]})
    context = {
        "title": "Correlated labels: the angle that learned heads find",
        "verdict": images_verdict(summary),
        "cards": [
            {"value": f"{fit['rms']:.3f}", "label": f"{name}: cosines from the fitted closed form"}
            for name, fit in fits.items()
        ],
        "lines": images_table(summary),
        "seeds": len(seeds),
        "lowest": f"{LOWEST:g}",
        "figures": {
            "cosines": figures.measured_cosines(shares, heads, fits),
            "accuracies": figures.accuracies(shares, heads),
        },
        "facts": origin(summary["provenance"])
        | {
            "settings": settings_in_words(summary["settings"]),
            "seeds": ", ".join(map(str, seeds)),
        },
    }
    write_page("verification/images.html.jinja", context, path)


def _number(value: Mapping[str, float | None]) -> str:
    return f"{value['mean']:.3f}" + ("" if value["half"] is None else f" ± {value['half']:.3f}")
