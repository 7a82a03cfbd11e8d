"""The correlation sweep on images as a table in the terminal, and as a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recipes.intervals import Interval
from recipes.pages.page import origin, settings_in_words, write_page
from recipes.pages.tables import Line
from recipes.verification import figures
from recipes.verification.effective import LOWEST, Effective, closed_form, limit_cosine
from recipes.verification.images import Cell, Fit, Summary, Sweep

ACCURACIES: dict[str, Callable[[Cell], Interval]] = {
    "test accuracy in %, labels correlated as in training": lambda cell: cell.at_share,
    "test accuracy in %, images with different labels": lambda cell: cell.different,
    "test accuracy in %, labels independent": lambda cell: cell.balanced,
}
"""Rows of the table."""

LAMBDAS: dict[str, Callable[[Effective], float]] = {
    "λ_W λ_H N from gaps, equal labels": lambda found: found.strength_equal,
    "the same, different labels": lambda found: found.strength_different,
    "λ_W": lambda found: found.lambda_w,
    "λ_H": lambda found: found.lambda_h,
}
"""Rows of the table for each learned head."""


def images_table(summary: Sweep) -> list[Line]:
    """Lines of text, a column a share; the first line names the shares."""
    shares, heads, fits = summary.shares, summary.heads, summary.fits
    empty = [""] * len(shares)
    table: list[Line] = [("p", *(f"{share:g}" for share in shares))]
    table.append(("cosine between the tasks", *empty))
    limits = (f"{limit_cosine(share):.3f}" for share in shares)
    table.append(("  closed form, λ_W λ_H N → 0", *limits))
    for name, cells in heads.items():
        table.append((f"  {name}", *(_number(cell.cosine) for cell in cells)))
        if name in fits:
            curve = closed_form(shares, fits[name].strength)
            table.append(("    closed form, one fitted number", *(f"{c:.3f}" for c in curve)))
            read = (f"{c:.3f}" for c in summary.closed_forms(name))
            table.append(("    closed form, λ's from logit gaps", *read))
            implied = (f"{f.cosine_from_margins:.3f}" for f in summary.effective(name))
            table.append(("    what both mean gaps imply", *implied))
    for title, accuracy in ACCURACIES.items():
        table.append((title, *empty))
        table += [
            (f"  {name}", *(_number(accuracy(cell), 100) for cell in cells))
            for name, cells in heads.items()
        ]
    for name in fits:
        table.append((f"effective λ's of {name}", *empty))
        for title, number in LAMBDAS.items():
            found = (f"{number(f):.1e}" for f in summary.effective(name))
            table.append((f"  {title}", *found))
    return table


def images_verdict(summary: Sweep) -> str:
    """Verdicts on the angles and on the accuracies, by rule."""
    sentences = [_fit_in_words(name, fit) for name, fit in summary.fits.items()]
    rivals = [r for r in ("learned-norm", "compound") if {"correlated", r} <= set(summary.heads)]
    sentences += [_accuracy_in_words(summary, rival) for rival in rivals]
    return " ".join(sentences)


def _fit_in_words(name: str, fit: Fit) -> str:
    if fit.strength < 1.5 * LOWEST:
        nearest = (
            f"nearest to the closed form's limit for vanishing λ's, {fit.rms_from_limit:.3f} "
            "away in root mean square over p"
        )
    else:
        nearest = (
            f"nearest to the closed form with λ_W λ_H N = {fit.strength:.1e} (fitted), "
            f"{fit.rms:.3f} away in root mean square over p"
        )
    return (
        f"The angles of “{name}” are {nearest}; with λ's read off its logit gaps the closed form "
        f"is {fit.rms_from_gaps:.3f} away."
    )


def _accuracy_in_words(summary: Sweep, rival: str) -> str:
    heads = summary.heads
    if heads[rival][0].balanced.half is None:
        return f"With one seed, no more can be said of “correlated” and “{rival}”."
    better: list[str] = []
    worse: list[str] = []
    for share, mine, other in zip(summary.shares, heads["correlated"], heads[rival], strict=True):
        difference = mine.balanced.mean - other.balanced.mean
        spread = max(mine.balanced.spread, other.balanced.spread)
        if abs(difference) > spread:
            (better if difference > 0 else worse).append(f"{share:g}")
    won, lost = (f"at p = {', '.join(where)}" if where else "nowhere" for where in (better, worse))
    return (
        f"Tested on independent labels, “correlated” is better than “{rival}” {won} and worse "
        f"{lost}, by more than the wider of the two 95% intervals."
    )


def write_images_report(summary: Summary, path: Path) -> None:
    """Render the page."""
    seeds = sorted({run.seed for run in summary.runs})
    context = {
        "title": "Correlated labels: the angle that learned heads find",
        "verdict": images_verdict(summary),
        "cards": [
            {"value": f"{value:.3f}", "label": f"{name}: {label}"}
            for name, fit in summary.fits.items()
            for value, label in (
                (min(fit.rms, fit.rms_from_limit), "from the nearest closed form (rms)"),
                (fit.rms_from_gaps, "from the closed form with its λ's (rms)"),
            )
        ],
        "lines": images_table(summary),
        "seeds": len(seeds),
        "lowest": f"{LOWEST:g}",
        "figures": {
            "cosines": figures.measured_cosines(summary),
            "accuracies": figures.accuracies(summary),
        },
        "facts": origin(summary.provenance)
        | {
            "measured": f"from the saved weights, at commit {summary.examined}",
            "settings": settings_in_words(summary.settings),
            "seeds": ", ".join(map(str, seeds)),
        },
    }
    write_page(Path(__file__).with_name("images.html.jinja"), context, path)


def _number(value: Interval, unit: int = 1) -> str:
    """Mean and interval, where there is one: to 0.001, or to 0.01 percent with a unit of 100."""
    digits = 3 if unit == 1 else 2
    spread = f" ± {unit * value.spread:.{digits}f}" if value.spread > 1e-6 else ""
    return f"{unit * value.mean:.{digits}f}{spread}"
