"""A comparison as a table in the terminal, and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.comparison import figures
from recipes.comparison.answer import asked_about, cards, held_out, is_learned, spoken, verdict
from recipes.comparison.curves import Curve
from recipes.comparison.reach import LEVELS, Reach
from recipes.comparison.summary import PLAIN, Comparison, HeadSummary
from recipes.comparison.tuning import HELD_OUT, choice_in_words
from recipes.intervals import Interval
from recipes.pages.canvas import page_colour
from recipes.pages.page import origin, settings_in_words, write_page
from recipes.pages.tables import Line, bytes_in_words, percent, points

MEASURES = {
    "s_nc1_ratio": ("S_NC1", "spread within label pairs over spread between them"),
    "s_nc2_norms": ("S_NC2 norms", "how unequal the class vectors' lengths are"),
    "s_nc2_angles": ("S_NC2 angles", "how far their cosines are from -1/(K-1)"),
    "s_nc3": ("S_NC3", "mean absolute cosine between class vectors of different tasks"),
    "s_nc4": ("S_NC4", "distance of mean features from the sum of their class vectors"),
    "s_nc5": ("S_NC5", "share of images whose nearest class mean is not the classifier's choice"),
    "m_nc1_ratio": ("M_NC1", "spread within classes over spread between them"),
    "m_nc2_norms_means": ("M_NC2 norms, means", "how unequal the centred class means' lengths are"),
    "m_nc2_angles_means": ("M_NC2 angles, means", "how far their cosines are from -1/(K-1)"),
    "m_nc2_norms_weights": ("M_NC2 norms", "how unequal the class vectors' lengths are"),
    "m_nc2_angles_weights": ("M_NC2 angles", "how far their cosines are from -1/(K-1)"),
    "m_nc3": ("M_NC3", "squared distance between directions of class means and class vectors"),
    "m_nc4": ("M_NC4", "share of images whose nearest class mean is not the classifier's choice"),
    "nc1_ratio": ("NC1", "spread within label sets over spread between them"),
    "nc2_angles_means": ("NC2 angles, means", "how far cosines of single labels are from -1/(K-1)"),
    "nc2_angles_weights": ("NC2 angles", "how far those of the class vectors are from -1/(K-1)"),
    "nc3": ("NC3", "squared distance between directions of single labels and class vectors"),
    "nc_m/2": ("NC_m, pairs", "angle of pairs to the average of their labels, over other pairs'"),
}
"""Measures by their names in a history: a short title, and what it says."""

NOTES = {
    "s": {
        "fixed_note": "S_NC2 and S_NC3 are properties of the class vectors alone: 0 by "
        "construction for fixed heads, and so below the foot of their plots.",
        "gram_note": "Two blocks of simplex ETFs with nothing between them is what the theory "
        "predicts of learned heads, and what fixed heads are from the start.",
    },
    "m": {
        "fixed_note": "M_NC2 of class vectors is a property of them alone: 0 by construction for "
        "fixed heads, and so below the foot of its plots. Of a single task these are NC1 to NC4.",
        "gram_note": "A simplex ETF a task is what the theory predicts of learned heads, and what "
        "fixed heads are from the start; tasks with samples of their own may stand at any angle.",
    },
    "sets": {
        "fixed_note": "NC2 of class vectors is a property of them alone: 0 by construction for "
        "fixed heads, and so below the foot of its plot.",
        "gram_note": "A simplex ETF is what the theory predicts of learned heads, whatever sets "
        "the labels come in, and what fixed heads are from the start.",
    },
}
"""What the measures of fixed heads, and their class vectors, say: of S_NC, M_NC and label sets."""

_REACHED = {
    "test_error": "test accuracy of at least",
    "s_nc1_ratio": "S_NC1 of at most",
    "s_nc4": "S_NC4 of at most",
}


def table(summary: Comparison) -> list[Line]:
    """Lines of text: what it is, then a cell a head; the first line names the heads."""
    heads, base = summary.heads.values(), summary.baseline

    def line(title: str, cell: Callable[[HeadSummary], str]) -> Line:
        return (title, *map(cell, heads))

    return [
        ("", *summary.heads),
        line("test accuracy", lambda h: percent(h.accuracy)),
        *(
            (f"  of {task}", *(percent(h.accuracy_by_task[task]) for h in heads))
            for task in summary.tasks
        ),
        line(f"  less {base}'s, in points", lambda h: points(h.difference)),
        line(f"epochs to {base}'s accuracy", lambda h: _reached(h.to_target, h.to_target.epochs)),
        line("seconds to it", lambda h: _reached(h.to_target, h.to_target.seconds)),
        line("seconds of training", lambda h: f"{h.train_seconds.mean:.1f}"),
        line("head and loss, ms a step", lambda h: f"{h.cost.median * 1e3:.2f}"),
        line("head parameters", lambda h: f"{h.counts.head_parameters:,}"),
        line("model parameters", lambda h: f"{h.counts.model_parameters:,}"),
        line("checkpoint", lambda h: bytes_in_words(h.counts.checkpoint_bytes)),
        line("optimiser state", lambda h: bytes_in_words(h.counts.optimizer_state_bytes)),
        *(
            (f"{title}, start → end", *(_start_to_end(h.curves[name]) for h in heads))
            for name, title in _measured(summary).items()
        ),
        *_chosen(summary),
    ]


def _chosen(summary: Comparison) -> list[Line]:
    """Settings that tuning chose, and how accurate they were on the images held out."""
    tuning = summary.tuning
    if not tuning:
        return []
    given = next(iter(tuning.values())).trials[0].settings
    settings = [tuning[name].settings if name in tuning else given for name in summary.heads]
    found = [held_out(summary, name) for name in summary.heads]
    return [
        ("accuracy of the best trial", *("–" if a is None else f"{a:.2%}" for a in found)),
        *(
            (f"  {name.replace('_', ' ')} of it", *(f"{own[name]:.3g}" for own in settings))
            for name in given
        ),
    ]


def trials_table(summary: Comparison) -> list[Line]:
    """A line for each trial of tuning: its settings, and what each head had with them."""
    if not summary.tuning:
        return []
    lines: list[Line] = [("head", "trial", "settings", "accuracy, held out", "")]
    for head, found in summary.tuning.items():
        for number, trial in enumerate(found.trials, start=1):
            lines.append(
                (
                    head,
                    str(number),
                    choice_in_words(trial.settings),
                    "diverged" if trial.accuracy is None else f"{trial.accuracy:.2%}",
                    "chosen" if trial.settings == found.settings else "",
                )
            )
    return lines


def reach_table(summary: Comparison) -> list[Line]:
    """Lines of text: a level each, then epochs until a head's runs reached it; the first as above.

    A heading stands above the levels of each curve.
    """
    lines: list[Line] = [("epochs until", *summary.heads)]
    for name, levels in summary.reach.items():
        lines.append((_REACHED[name], *[""] * len(summary.heads)))
        for level in levels:
            number = level.level
            text = f"{100 * (1 - number):g}%" if name == "test_error" else f"{number:g}"
            cells = (_reached(reach, reach.epochs) for reach in level.heads.values())
            lines.append((f"  {text}", *cells))
    return lines


def write_report(summary: Comparison, path: Path) -> None:
    """Render the page; everything in it is inside the one file."""
    write_page(Path(__file__).with_name("report.html.jinja"), _context(summary), path)


def _context(summary: Comparison) -> dict[str, Any]:
    heads, settings = summary.heads, summary.settings
    baseline = heads[summary.baseline]
    counts = baseline.counts
    tasks = summary.tasks
    measured = _measured(summary)
    asked = asked_about(summary)
    return {
        "title": f"Learned and fixed heads on {settings['data']}",
        "verdict": verdict(summary),
        "several": len(heads) > 1,
        "dots": any(len(head.differences) > 1 for head in heads.values()),
        "kept": list(heads).index(asked) + 1 if asked else None,
        "spoken": spoken(summary.baseline),
        "chosen_note": _chosen_note(summary),
        "trials": trials_table(summary),
        "held_out": f"{HELD_OUT:.0%}",
        "cards": cards(summary),
        "lines": table(summary)[1:],
        "table_note": (
            f"Means over seeds {', '.join(map(str, summary.seeds))} with 95% intervals of the "
            "mean (Student's t); differences are paired by seed, in percentage points. Head time "
            f"is forward, loss, backward and AdamW of the head alone at batch size "
            f"{settings['batch_size']} and {settings['features']} features, median."
            + (
                f" Heads are tuned alike, but for “{PLAIN}”: the settings as they are."
                if summary.tuning
                else ""
            )
        ),
        "reach": reach_table(summary)[1:],
        "reach_note": (
            "First epoch at whose end a run had come so far, averaged over the runs that had; in "
            "parentheses their number where it is not all. Runs are measured between epochs, so "
            f"a single number is an epoch coarse. Levels are the {LEVELS} lowest of 1, 0.5, 0.2, "
            "0.1, ... (of the test error: 1 less accuracy) that at least one head reached with "
            "every seed."
        ),
        "colours": {h: page_colour(c) for h, c in figures.head_colours(list(heads)).items()},
        "seeds": summary.seeds,
        "baseline": summary.baseline,
        **NOTES["m" if "m_nc3" in measured else "sets" if "nc3" in measured else "s"],
        "meanings": {title: MEASURES[name][1] for name, title in measured.items()},
        "tasks": ", ".join(f"{name} ({k} classes)" for name, k in tasks.items()),
        "head_share": f"{counts.head_parameters / counts.model_parameters:.1%}",
        "figures": {
            "forest": figures.forest(heads, summary.baseline) if len(heads) > 1 else "",
            "accuracy": figures.accuracy_curves(heads, baseline.accuracy.mean),
            "collapse": figures.collapse_curves(heads, measured),
            "gram": figures.gram_pictures(
                {name: head.gram for name, head in heads.items()}, list(tasks.values())
            ),
            "costs": figures.cost_ratios(heads, summary.baseline),
        },
        "facts": origin(summary.provenance)
        | {"settings": settings_in_words(settings), "seeds": ", ".join(map(str, summary.seeds))},
    }


def _chosen_note(summary: Comparison) -> str:
    """How the fixed head of the answer was chosen, where there are several."""
    fixed = [name for name in summary.heads if not is_learned(name)]
    if len(fixed) < 2:
        return ""
    if summary.tuning:
        return "The answer is about the fixed head that was best on the images held out in tuning."
    return "The answer is about the first fixed head of the command line, not about the best one."


def _measured(summary: Comparison) -> dict[str, str]:
    """Titles of the measures that the runs have."""
    curves = summary.heads[summary.baseline].curves
    return {name: title for name, (title, _) in MEASURES.items() if name in curves}


def _start_to_end(curve: Curve) -> str:
    first, last = (
        "–" if value is None else f"{value:.2g}" for value in (curve.mean[0], curve.mean[-1])
    )
    return f"{first} → {last}"


def _reached(reach: Reach, time: Interval | None) -> str:
    if time is None:
        return "not reached"
    runs = "" if reach.reached == reach.of else f" ({reach.reached} of {reach.of})"
    return f"{time.mean:.1f}{runs}"
