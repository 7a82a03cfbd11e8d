"""The correlation sweep on images as a table in the terminal, and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.pages.page import origin, settings_in_words, write_page
from recipes.pages.tables import Line
from recipes.verification import figures
from recipes.verification.effective import LOWEST, closed_form, limit_cosine

Summary = dict[str, Any]
"""The contents of ``theory_images.json``."""


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
            found = [cell["effective"] for cell in cells]
            curve = closed_form(shares, fits[name]["strength"])
            table.append(("    closed form, one fitted number", *(f"{c:.3f}" for c in curve)))
            read = (
                closed_form([share], f["strength_equal"])[0]
                for share, f in zip(shares, found, strict=True)
            )
            table.append(("    closed form, λ's from logit gaps", *(f"{c:.3f}" for c in read)))
            implied = (f"{f['cosine_from_margins']:.3f}" for f in found)
            table.append(("    what both mean gaps imply", *implied))
    for measure, title in (
        ("at_share", "test accuracy in %, labels correlated as in training"),
        ("different", "test accuracy in %, images with different labels"),
        ("balanced", "test accuracy in %, labels independent"),
    ):
        table.append((title, *empty))
        table += [
            (f"  {name}", *(_number(cell[measure], 100) for cell in cells))
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
    """Verdicts on the angles and on the accuracies, by rule."""
    sentences = [_fit_in_words(name, fit) for name, fit in summary["fits"].items()]
    rivals = [r for r in ("learned-norm", "compound") if {"correlated", r} <= set(summary["heads"])]
    sentences += [_accuracy_in_words(summary, rival) for rival in rivals]
    return " ".join(sentences)


def _fit_in_words(name: str, fit: Mapping[str, float]) -> str:
    if fit["strength"] < 1.5 * LOWEST:
        nearest = (
            f"nearest to the closed form's limit for vanishing λ's, {fit['rms_from_limit']:.3f} "
            "away in root mean square over p"
        )
    else:
        nearest = (
            f"nearest to the closed form with λ_W λ_H N = {fit['strength']:.1e} (fitted), "
            f"{fit['rms']:.3f} away in root mean square over p"
        )
    return (
        f"The angles of “{name}” are {nearest}; with λ's read off its logit gaps the closed form "
        f"is {fit['rms_from_gaps']:.3f} away."
    )


def _accuracy_in_words(summary: Summary, rival: str) -> str:
    heads = summary["heads"]
    if heads[rival][0]["balanced"]["half"] is None:
        return f"With one seed, no more can be said of “correlated” and “{rival}”."
    better: list[str] = []
    worse: list[str] = []
    for share, mine, other in zip(
        summary["shares"], heads["correlated"], heads[rival], strict=True
    ):
        difference = mine["balanced"]["mean"] - other["balanced"]["mean"]
        spread = max(mine["balanced"]["half"], other["balanced"]["half"])
        if abs(difference) > spread:
            (better if difference > 0 else worse).append(f"{share:g}")
    won, lost = (f"at p = {', '.join(where)}" if where else "nowhere" for where in (better, worse))
    return (
        f"Tested on independent labels, “correlated” is better than “{rival}” {won} and worse "
        f"{lost}, by more than the wider of the two 95% intervals."
    )


def write_images_report(summary: Summary, path: Path) -> None:
    """Render the page."""
    shares, heads, fits = summary["shares"], summary["heads"], summary["fits"]
    seeds = sorted({run["seed"] for run in summary["runs"]})
    context = {
        "title": "Correlated labels: the angle that learned heads find",
        "verdict": images_verdict(summary),
        "cards": [
            {"value": f"{value:.3f}", "label": f"{name}: {label}"}
            for name, fit in fits.items()
            for value, label in (
                (min(fit["rms"], fit["rms_from_limit"]), "from the nearest closed form (rms)"),
                (fit["rms_from_gaps"], "from the closed form with its λ's (rms)"),
            )
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
            "measured": f"from the saved weights, at commit {summary['examined']}",
            "settings": settings_in_words(summary["settings"]),
            "seeds": ", ".join(map(str, seeds)),
        },
    }
    write_page(Path(__file__).with_name("images.html.jinja"), context, path)


def _number(value: Mapping[str, Any], unit: int = 1) -> str:
    """Mean and interval, where there is one: to 0.001, or to 0.01 percent with a unit of 100."""
    digits = 3 if unit == 1 else 2
    half = value["half"] or 0.0
    spread = f" ± {unit * half:.{digits}f}" if half > 1e-6 else ""
    return f"{unit * value['mean']:.{digits}f}{spread}"
