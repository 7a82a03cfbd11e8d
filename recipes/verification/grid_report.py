"""The grid as a table in the terminal, and as a page."""

from __future__ import annotations

from pathlib import Path

from recipes.pages.page import origin, write_page
from recipes.pages.tables import Line
from recipes.verification import figures
from recipes.verification.descent import Line as Result
from recipes.verification.descent import Summary

TITLES = {
    "3.1": "Theorem 3.1: balanced tasks",
    "3.2": "Theorem 3.2: tasks with samples of their own",
    "5.1": "Theorem 5.1: two correlated binary tasks",
    "general": "Any joint label counts",
}


def grid_table(summary: Summary) -> list[Line]:
    """Lines of text: a heading a theorem, then a line a problem; the first names the columns."""
    head = ("", "λ_W λ_H N", "Gram", "cosine", "logit gap", "solver", "steps", "verdict")
    table: list[Line] = [head]
    theorem = None
    for line in summary.lines:
        if line.theorem != theorem:
            theorem = line.theorem
            table.append((TITLES[theorem], *[""] * (len(head) - 1)))
        found = line.deviations.values()
        deviations = ("–" if value is None else f"{value:.1e}" for value in found)
        verdict = "agrees" if line.agrees(summary.tolerance) else "DISAGREES"
        name = f"  {line.name}"
        table.append((name, f"{line.strength:.2g}", *deviations, str(line.steps), verdict))
    return table


def grid_verdict(summary: Summary) -> str:
    """One sentence, by rule."""
    lines, tolerance = summary.lines, summary.tolerance
    wrong = [line.name for line in lines if not line.agrees(tolerance)]
    if wrong:
        return (
            f"{len(wrong)} of {len(lines)} problems deviate from theory by more than "
            f"{tolerance:g}: {'; '.join(wrong)}."
        )
    return (
        f"On all {len(lines)} problems, from {summary.starts} random start(s) each, gradient "
        f"descent ends where theory says, within {worst(summary):.1e}; {tolerance:g} was allowed."
    )


def worst(summary: Summary) -> float:
    """The largest deviation of the whole grid."""
    return max(line.worst for line in summary.lines)


def write_grid_report(summary: Summary, path: Path) -> None:
    """Render the page."""
    lines = summary.lines
    binary = [line for line in lines if line.theorem == "5.1"]
    pictured = _pictured(lines)
    context = {
        "title": "Does gradient descent end where the theory says?",
        "verdict": grid_verdict(summary),
        "cards": [
            {
                "value": f"{sum(x.agrees(summary.tolerance) for x in lines)} of {len(lines)}",
                "label": "agree",
            },
            {"value": f"{worst(summary):.0e}", "label": "worst deviation of all"},
            {"value": f"{summary.tolerance:.0e}", "label": "allowed"},
            {"value": str(summary.starts), "label": "random starts a problem"},
        ],
        "lines": grid_table(summary),
        "tolerance": f"{summary.tolerance:g}",
        "starts": summary.starts,
        "figures": {
            "cosines": figures.cosine_curves(binary) if binary else None,
            "deviations": figures.deviations(lines, TITLES, summary.tolerance),
            "grams": figures.gram_pairs(pictured),
        },
        "pictured": [f"{TITLES[line.theorem]}, {line.name.strip()}" for line in pictured],
        "facts": origin(summary.provenance),
    }
    write_page(Path(__file__).with_name("grid.html.jinja"), context, path)


def _pictured(lines: list[Result]) -> list[Result]:
    """The richest line of each theorem with tasks that share samples, and another general one."""
    chosen = []
    for theorem, count in (("3.1", 1), ("5.1", 1), ("general", 2)):
        own = [x for x in lines if x.theorem == theorem and x.cosine is not None]
        own.sort(key=lambda x: (len(x.tasks), sum(x.tasks), x.share == 0.9), reverse=True)
        chosen += own[:count]
    return chosen
