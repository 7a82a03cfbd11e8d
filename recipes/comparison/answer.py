"""Whether to swap a learned head for a fixed one: an answer by rule, from the numbers."""

from __future__ import annotations

from recipes.comparison.summary import PLAIN, Comparison, HeadSummary
from recipes.intervals import half_width, seeds_needed
from recipes.pages.tables import bytes_in_words, points

MARGIN = 0.005
"""Half a percentage point of test accuracy: less than that a user would not notice."""


def is_learned(name: str) -> bool:
    """Whether a head of a comparison is learned."""
    return name.startswith(("learned", PLAIN))


def asked_about(summary: Comparison) -> str | None:
    """The fixed head that the answer is about: never chosen by test accuracy.

    It is the one that was most accurate on the images held out in tuning, the first of equals; the
    first of all without tuning.
    """
    fixed = [name for name in summary.heads if not is_learned(name)]
    return max(fixed, key=lambda name: held_out(summary, name) or 0.0, default=None)


def held_out(summary: Comparison, name: str) -> float | None:
    """Accuracy of a head's best trial; None without tuning."""
    return summary.tuning[name].accuracy if name in summary.tuning else None


def verdict(summary: Comparison) -> str:
    """The answer: by the 95% interval of the paired difference, and by what the swap saves."""
    name = asked_about(summary)
    if name is None:
        return "Only learned heads were trained: there is no fixed head to swap to."
    head, learned = summary.heads[name], summary.heads[summary.baseline]
    tuned = " Both were tuned alike." if summary.tuning else ""
    return (
        f"Should “{name}” take the place of {spoken(summary.baseline)}? {_sense(head)}"
        f"{tuned} {_savings(head, learned)}"
    )


def spoken(name: str) -> str:
    """A head as a text names it."""
    return "nn.Linear (“learned”)" if name == "learned" else f"“{name}”"


def _sense(head: HeadSummary) -> str:
    mean, half, n = head.difference.mean, head.difference.half, head.difference.n
    ends = f"it ends {points(head.difference)} points of test accuracy from it"
    if half is None:
        return f"Not decided: {ends} with one seed, which has no interval."
    how = f"(n = {n}, paired by seed, 95% interval)"
    if mean - half > 0:
        return f"Yes: {ends} {how}, better beyond the spread of the seeds."
    if mean - half >= -MARGIN:
        less = "behind, but by " if mean + half < 0 else "behind, if at all, by "
        return f"Yes, for what it saves: {ends} {how}, {less}less than half a point."
    if mean + half < 0:
        return f"No: {ends} {how}, worse beyond the spread of the seeds."
    spread = half / half_width(1.0, n)
    needed = seeds_needed(abs(mean + MARGIN), spread, n)
    more = f"about {needed:,} would" if needed else "no number that can be run would"
    return (
        f"Not decided: {ends} {how}; so few seeds cannot tell whether it is more than half a point "
        f"behind, {more}."
    )


def _savings(head: HeadSummary, learned: HeadSummary) -> str:
    parameters = learned.counts.head_parameters - head.counts.head_parameters
    share = parameters / learned.counts.model_parameters
    state = learned.counts.optimizer_state_bytes - head.counts.optimizer_state_bytes
    little = ", which is little" if share < 0.01 else ""
    return (
        f"It saves {parameters:,} parameters ({share:.1%} of the model{little}) and "
        f"{bytes_in_words(state)} of optimiser state; head and loss take "
        f"{times(head.cost.median, learned.cost.median)} the time."
    )


def times(value: float, base: float) -> str:
    """A ratio such as "0.96 times"."""
    return f"{value / base:.2f} times" if base else "–"


def cards(summary: Comparison) -> list[dict[str, str]]:
    """The numbers of the answer, each with what it is of."""
    name = asked_about(summary)
    if name is None:
        return []
    base = summary.baseline
    head, learned = summary.heads[name], summary.heads[base]
    before, after = learned.counts, head.counts
    state = 1 - after.optimizer_state_bytes / max(1, before.optimizer_state_bytes)
    return [
        {
            "value": points(head.difference),
            "label": f"points of test accuracy: {name} less {base}",
        },
        {
            "value": f"{before.head_parameters:,} → {after.head_parameters:,}",
            "label": f"head parameters: {base} → {name}",
        },
        {
            "value": times(head.cost.median, learned.cost.median),
            "label": f"the time of {base}, in head and loss: {name}",
        },
        {"value": f"{state:.1%} less", "label": f"optimiser state: {name} than {base}"},
    ]
