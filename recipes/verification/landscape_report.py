"""The checks of the landscape as a table in the terminal, and as a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from recipes.pages.page import origin, write_page
from recipes.pages.tables import Line
from recipes.provenance import Provenance
from recipes.verification.landscape import LAMBDAS, Check

TITLES = {
    "landscape": "Landscape of unconstrained feature models",
    "hadamard": "Two layers from a Hadamard start",
}


@dataclass(frozen=True)
class Summary:
    """The contents of ``theory_landscape.json``."""

    starts: int  # of each model, at each scale
    seed: int  # of all starts
    checks: list[Check]  # study by study
    provenance: Provenance  # of all
    holds: bool = field(init=False)  # whether every criterion is met

    def __post_init__(self) -> None:
        holds = all(check.holds for check in self.checks)
        object.__setattr__(self, "holds", holds)  # the dataclass is frozen


def landscape_table(summary: Summary) -> list[Line]:
    """Lines of text: a heading a study, then a line a check; the first names the columns."""
    table: list[Line] = [("", "found", "criterion", "of", "verdict")]
    study = None
    for check in summary.checks:
        if check.study != study:
            study = check.study
            table.append((TITLES[study], *[""] * (len(table[0]) - 1)))
        criterion = f"{check.relation} {check.criterion:.3g}"
        verdict = "holds" if check.holds else "DOES NOT HOLD"
        cells = (f"{check.found:.3g}", criterion, str(check.points), verdict)
        table.append((f"  {check.name}", *cells))
    return table


def landscape_verdict(summary: Summary) -> str:
    """One sentence, by rule."""
    wrong = [check.name for check in summary.checks if not check.holds]
    if wrong:
        return f"{len(wrong)} of {len(summary.checks)} criteria do not hold: {'; '.join(wrong)}."
    saddles = [c.points for c in summary.checks if c.study == "landscape" and c.criterion < 0]
    return (
        f"All {len(summary.checks)} criteria hold: of the critical points found with "
        f"{len(saddles)} losses and normalisations, {sum(saddles)} are no global minimum, and each "
        "is a strict saddle."
    )


def write_landscape_report(summary: Summary, path: Path) -> None:
    """Render the page."""
    checks = summary.checks
    context = {
        "title": "Is every critical point that is no optimum a saddle?",
        "verdict": landscape_verdict(summary),
        "cards": [
            {"value": f"{sum(c.holds for c in checks)} of {len(checks)}", "label": "criteria hold"},
            {"value": str(summary.starts), "label": "starts a model and scale"},
        ],
        "lines": landscape_table(summary),
        "lambdas": LAMBDAS,
        "facts": origin(summary.provenance),
    }
    write_page(Path(__file__).with_name("landscape.html.jinja"), context, path)
