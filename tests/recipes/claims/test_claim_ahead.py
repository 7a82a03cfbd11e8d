"""The rule of the claim "ahead": variants are chosen by images held out, never by test images."""

from dataclasses import replace

import pytest
from recipe_results import record

from recipes.claims.ahead import CLAIM, LOSSES, PLAIN, REGIMES, chosen, judge, lines
from recipes.claims.claim import overall
from recipes.comparison.tuning import Trial

pytestmark = pytest.mark.recipes
SPREAD = (-0.002, 0.0, 0.002, 0.001, -0.001)
HELD_OUT = {"cross-entropy": 0.5, "normalized": 0.6, "ntce": 0.4, "nonl": 0.3}


def records(accuracy, held_out=None):
    """Five runs around an accuracy, after trials of which the best had this one."""
    pairs = ((0.01, held_out), (0.03, None), (0.003, 0.1))
    trials = tuple(Trial({"lr": rate}, found) for rate, found in pairs) if held_out else ()
    return [record(10 + k, {"class": accuracy + spread}, trials) for k, spread in enumerate(SPREAD)]


def evidence(**accuracies):
    """Of every regime; test accuracies of "learned" and "fixed" heads by loss, otherwise 0.5."""
    found = {}
    for regime in REGIMES:
        for kind in ("learned", "fixed"):
            for loss in LOSSES:
                accuracy = accuracies.get(kind, {}).get(loss, 0.5)
                found[f"{regime}: {kind}, {loss}"] = records(accuracy, HELD_OUT[loss])
        found[f"{regime}: {PLAIN}"] = records(0.45)
    return found


def verdict(found):
    return overall(criterion.verdict for criterion in judge(found))


def test_variants_are_those_that_the_plan_runs():
    assert list(CLAIM.plans["reduced"].variants) == list(evidence())


def test_every_variant_but_the_plain_one_is_tuned_alike():
    for plan in CLAIM.plans.values():
        assert plan.trials == 7  # the grid, once
        untuned = [name for name, variant in plan.variants.items() if not variant.tuned]
        assert len(untuned) == len(plan.variants) / 9
        assert all(name.endswith(PLAIN) for name in untuned)


def test_a_fixed_head_that_is_ahead_holds():
    found = list(judge(evidence(fixed={"normalized": 0.52})))
    assert [criterion.verdict for criterion in found] == ["met"] * (len(REGIMES) + 1)
    for criterion in found:
        assert criterion.values == pytest.approx([2.0] * 5)


def test_the_variant_is_chosen_by_the_images_held_out():
    """On the test images another one is far better: that is not looked at."""
    found = evidence(fixed={"ntce": 0.9, "normalized": 0.48}, learned={"nonl": 0.99})
    for regime in REGIMES:
        assert chosen(found, regime, "fixed") == f"{regime}: fixed, normalized"
        assert chosen(found, regime, "learned") == f"{regime}: learned, normalized"
    assert [c.values for c in judge(found)] == [pytest.approx([-2.0] * 5)] * (len(REGIMES) + 1)
    assert verdict(found) == "does not hold"


@pytest.mark.parametrize("regime", REGIMES)
def test_one_regime_behind_is_not_met(regime):
    found = evidence(fixed={"normalized": 0.52})
    found[f"{regime}: fixed, normalized"] = records(0.49, HELD_OUT["normalized"])
    verdicts = {c.statement.partition(":")[0]: c.verdict for c in judge(found)}
    assert verdicts[regime] == "not met"
    assert verdict(found) == "does not hold"


def test_less_than_half_a_point_behind_is_not_behind_but_not_ahead_either():
    found = evidence(fixed={"normalized": 0.4999})
    *each, ahead = judge(found)
    assert {criterion.verdict for criterion in each} == {"met"}
    assert ahead.verdict == "not met"


def test_the_regime_that_has_to_be_ahead_is_the_one_that_tuning_promised_most():
    found = evidence(fixed={"normalized": 0.52})
    regime = list(REGIMES)[2]
    found[f"{regime}: fixed, normalized"] = records(0.501, 0.7)
    *_, ahead = judge(found)
    assert regime in ahead.statement
    assert ahead.values == pytest.approx([0.1] * 5)


def test_trials_that_diverged_are_no_choice():
    found = evidence()
    name = "few images: fixed, normalized"
    found[name] = [replace(own, tuned=(Trial({"lr": 0.01}, None),)) for own in found[name]]
    assert chosen(found, "few images", "fixed") == "few images: fixed, cross-entropy"


def test_lines_say_what_was_chosen():
    found = evidence(fixed={"normalized": 0.52})
    table = {title: dict(zip(found, cells, strict=True)) for title, *cells in lines(found)}
    name, plain = "few images: fixed, normalized", f"few images: {PLAIN}"
    assert table["points ahead of plain"][name] == "+7.00 ± 0.00"
    assert table["held-out accuracy of the best trial, %"][name] == "60.0"
    assert table["chosen settings"][name] == "lr 0.01"
    assert table["chosen settings"][plain] == "as they come"
