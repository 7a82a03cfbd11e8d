"""Decisions of each claim: a single number on the wrong side is enough."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from claim_evidence import BENT, COLLAPSED, criteria_of, end_at, record, supporting

from recipes.claims import CLAIMS, find_claim
from recipes.claims.defaults import VARIANTS as DEFAULTS
from recipes.claims.loss_or_head import head_bytes
from recipes.training.result import Counts
from recipes.training.weighting import WEIGHTINGS


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_holds_on_numbers_that_support_it(name):
    claim = find_claim(name)
    assert all(criterion.verdict == "met" for criterion in criteria_of(claim, supporting(claim)))


@pytest.mark.parametrize("measure", COLLAPSED)
@pytest.mark.parametrize("value", [None, math.nan, 5.0])
def test_every_measure_decides(measure, value):
    claim = find_claim("single-source" if measure.startswith("s_") else "multi-source")
    evidence = supporting(claim)
    evidence["learned-norm"][0].history[-1].collapse[measure] = value
    assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


@pytest.mark.parametrize(
    ("name", "head", "tolerance"),
    [
        ("single-source", "compound", 0.2),
        ("single-source", "compound, batch norm", 0.2),
        ("multi-source", "compound", 1.0),
        ("multi-source", "compound, batch norm", 1.0),
        ("parameter-efficient", "compound", 0.2),
        ("defaults", "default", 1.0),
        ("defaults", "batch norm", 1.0),
        ("defaults", "layer norm", 1.0),
        ("defaults", "head decay 10", 1.0),
    ],
)
def test_accuracy_decides(name, head, tolerance):
    claim = find_claim(name)
    evidence = supporting(claim)
    for points, holds in ((0.99 * tolerance, True), (1.01 * tolerance, False)):
        shifted = copy.deepcopy(evidence)
        end_at(shifted[head][0], 0.99 - points / 100)
        assert all(criterion.verdict == "met" for criterion in criteria_of(claim, shifted)) is holds


@pytest.mark.parametrize("better", sorted(DEFAULTS.keys() - {"default"}))
def test_defaults_hold_unless_another_setting_is_ahead(better):
    claim = find_claim("defaults")
    evidence = supporting(claim)
    evidence[better] = [record(COLLAPSED, accuracy=0.99 + 0.011)]
    assert not all(criterion.verdict == "met" for criterion in criteria_of(claim, evidence))


@pytest.mark.parametrize(
    ("measure", "value"),
    [("own", [0.95, 0.84]), ("other", [0.2, 0.1]), ("spread", [0.1, 0.2]), ("sum", 0.71)],
)
@pytest.mark.parametrize("head", ["learned-norm", "compound"])
def test_every_measure_decides_on_dissection(head, measure, value):
    claim = find_claim("dissection")
    evidence = supporting(claim)
    evidence[head][0].extra["after"][measure] = value
    assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


@pytest.mark.parametrize(
    ("variant", "gap"),
    [
        ("learned-norm, label smoothing", 4.3),
        ("compound, label smoothing", 4.7),
        ("learned-norm, squared error", 4.7),
        ("compound, squared error", 5.3),
    ],
)
def test_the_logit_gap_decides_on_losses(variant, gap):
    claim = find_claim("losses")
    evidence = supporting(claim)
    (own,) = evidence[variant]
    evidence[variant] = [replace(own, extra={"gap": gap})]
    assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


@pytest.mark.parametrize("scale", ["matched scale", None])
def test_only_class_vectors_of_matched_length_have_to_reach_s_nc4(scale):
    claim = find_claim("losses")
    evidence = supporting(claim)
    name = ", ".join(filter(None, ("compound, label smoothing", scale)))
    evidence[name][0].history[-1].collapse["s_nc4"] = 1.0
    failed = [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False)
    assert failed == (1 if scale else 0)


def test_margins_and_losses_decide_on_temperature():
    claim = find_claim("temperature")
    narrower = [[1.0, 0.95], [0.95, 1.0]]  # than those of the other scales
    for name, change in (
        ("learned, scale 30", {"gram": narrower}),
        ("fixed, scale 3", {"history": lower_loss(supporting(claim)["fixed, scale 3"][0])}),
    ):
        evidence = supporting(claim)
        evidence[name] = [replace(evidence[name][0], **change)]
        assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


def lower_loss(record):
    """A history that ends with a smaller training loss than unit vectors can have."""
    end = record.history[-1]
    return [*record.history[:-1], replace(end, train=replace(end.train, loss=0.5))]


@pytest.mark.parametrize("ratio", [10, 50, 100])
@pytest.mark.parametrize("head", ["learned", "compound"])
def test_accuracy_decides_on_long_tails(ratio, head):
    claim = find_claim("long-tail")
    evidence = supporting(claim)
    end_at(evidence[f"1:{ratio}, {head}, cross-entropy"][0], 0.971)  # 1.9 points
    verdicts = [c.verdict == "met" for c in criteria_of(claim, evidence)]
    assert verdicts.count(False) == (0 if ratio == 10 else 1)
    evidence = supporting(claim)
    end_at(evidence[f"1:{ratio}, compound, logit-adjusted"][0], 0.9799)
    verdicts = [c.verdict == "met" for c in criteria_of(claim, evidence)]
    assert verdicts.count(False) == (1 if ratio == 10 else 2)


@pytest.mark.parametrize(
    "change",
    [{"cosine": 0.94, "exponent": 0.2}, {"cosine": 0.99, "exponent": 0.19}, {"accuracy": 0.9649}],
)
def test_cosine_exponent_and_accuracy_decide_on_alignment(change):
    claim = find_claim("alignment")
    evidence = supporting(claim)
    turned = evidence["1:50, logit-adjusted, turned"]
    if "accuracy" in change:
        end_at(turned[0], change["accuracy"])
    else:
        turned[0] = replace(turned[0], extra=change)
    assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


def test_an_exponent_that_stays_0_has_not_grown():
    claim = find_claim("alignment")
    evidence = supporting(claim)
    for name in ("1:10, cross-entropy", "1:10, cross-entropy, turned"):
        evidence[name] = [replace(r, extra=r.extra | {"exponent": 0.0}) for r in evidence[name]]
    assert [c.verdict for c in criteria_of(claim, evidence)].count("not met") == 1


@pytest.mark.parametrize("head", ["learned-norm", "compound"])
@pytest.mark.parametrize("strategy", WEIGHTINGS)
@pytest.mark.parametrize("value", [None, 1.0])
def test_the_worst_strategy_decides_on_weighting(strategy, head, value):
    claim = find_claim("weighting")
    for measure in ("s_nc1_ratio", "s_nc5"):
        evidence = supporting(claim)
        evidence[f"{strategy}, {head}"][0].history[-1].collapse[measure] = value
        assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


def test_accuracy_decides_on_weighting_by_its_mean_over_strategies():
    claim = find_claim("weighting")
    for points, holds in ((0.19 * len(WEIGHTINGS), True), (0.21 * len(WEIGHTINGS), False)):
        evidence = supporting(claim)
        end_at(evidence["famo, compound"][0], 0.99 - points / 100)
        assert (
            all(criterion.verdict == "met" for criterion in criteria_of(claim, evidence)) is holds
        )


@pytest.mark.parametrize("variant", ["imbalanced classes", "imbalanced pairs"])
def test_angles_decide_on_imbalance(variant):
    claim = find_claim("imbalance")
    evidence = supporting(claim)
    etfs = torch.block_diag(*2 * [torch.tensor([[1.0, -1.0], [-1.0, 1.0]])])
    bent = torch.tensor(BENT)
    for share, met in ((0.68, True), (0.65, False)):  # of the way: 0.32 / 0.68 and 0.35 / 0.65
        gram = (etfs + share * (bent - etfs)).tolist()
        evidence[variant] = [replace(evidence[variant][0], gram=gram)]
        assert all(criterion.verdict == "met" for criterion in criteria_of(claim, evidence)) is met


def test_unequal_tasks_decide_on_imbalance():
    claim = find_claim("imbalance")
    evidence = supporting(claim)
    evidence["10 and 4 classes"][0].history[-1].collapse["s_nc1_ratio"] = 1.0
    assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


@pytest.mark.parametrize("head", ["learned-norm", "correlated"])
@pytest.mark.parametrize(
    ("overlaps", "met"), [((0.3, 0.3, 0.4), 2), ((0.3, 0.5, 0.4), 1), ((0.3, 0.32, 0.34), 1)]
)
def test_overlaps_decide_on_saliency(head, overlaps, met):
    """Not met: a fall from one agreement to the next, and too small a rise."""
    claim = find_claim("saliency")
    evidence = supporting(claim)
    for share, value in zip((0.1, 0.5, 0.9), overlaps, strict=True):
        evidence[f"{head}, {share}"][0].extra["overlap"] = value
    assert sum(c.verdict == "met" for c in criteria_of(claim, evidence)) == 2 + met


def test_cosines_decide_on_correlation():
    claim = find_claim("correlation")
    for cosine, held in ((0.0, 1), (0.28, 3), (0.9, 1)):  # the theorem says 1/3 at p = 0.8
        evidence = supporting(claim)
        evidence["p = 0.8"][0].extra["cosine"] = cosine
        assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(True) == held


def test_savings_decide_on_parameter_efficient():
    claim = find_claim("parameter-efficient")
    evidence = supporting(claim)
    (own,) = evidence["compound"]
    evidence["compound"] = [replace(own, counts=replace(own.counts, optimizer_state_bytes=100))]
    assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


@pytest.mark.parametrize(
    ("variant", "measure", "value"),
    [
        ("digits 0.5%: learned-norm", "deep", 0.11),
        ("digits 0.5%: learned-norm", "shallow", 0.29),
        ("digits 0.5%: learned-norm", "inflation", 1.19),
        ("digits 50.0%: learned-norm", "inflation", 1.11),
        ("digits 2.0%: learned-norm", "effective_rank_ratio", 0.61),
        ("digits 50.0%: learned-norm", "effective_rank_ratio", None),
        ("digits 0.0%: learned", "old_mean_share", 0.51),
        ("digits 0.0%: learned-norm", "old_mean_share", 0.51),
        ("digits 0.0%: learned", "deep", 0.16),
        ("digits 0.5%: learned", "deep", 0.26),
    ],
)
def test_every_measure_decides_on_replay(variant, measure, value):
    claim = find_claim("replay")
    evidence = supporting(claim)
    evidence[variant][0].history[-1].collapse[measure] = value
    assert [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False) == 1


@pytest.mark.parametrize("buffer", ["0.5%", "2.0%"])
@pytest.mark.parametrize(("head", "points"), [("learned-norm", 3), ("random-rows", 1)])
def test_heads_with_small_buffers_decide_on_replay(buffer, head, points):
    claim = find_claim("replay")
    for ahead, held in ((1.01 * points, True), (0.99 * points, False)):
        evidence = supporting(claim)
        end_at(evidence[f"digits {buffer}: {head}"][0], 0.84 - ahead / 100)
        met = [c.verdict == "met" for c in criteria_of(claim, evidence)]
        assert met.count(False) == (0 if held else 1)


@pytest.mark.parametrize(
    ("name", "variant", "accuracy", "failing"),
    [
        ("many-classes", "class means", 0.979, 2),
        ("many-classes", "learned cosines", 0.991, 1),
        ("many-classes", "Kerdock", 0.41, 1),
        ("many-classes", "Kerdock, chosen", 0.8, 1),
        ("many-classes", "Kerdock, d = 256", 0.8, 1),
        ("loss-or-head", "4,000 characters: learned cosines", 0.995, 1),
        ("loss-or-head", "4,000 characters: class means, NONL", 0.98, 2),
        ("loss-or-head", "4,000 characters: class means in bfloat16 rows, NONL", 0.97, 1),
        ("loss-or-head", "100 classes of images: nn.Linear", 0.4, 2),
        ("many-classes-tuned", "4,000 characters: nn.Linear", 0.995, 2),
        ("many-classes-tuned", "4,000 characters: class means in bfloat16 rows, NONL", 0.97, 1),
        ("many-classes-tuned", "100 classes in 32 dimensions: nn.Linear", 0.4, 2),
        ("many-classes-tuned", "100 classes in 64 dimensions: fixed code", 0.995, 1),
        ("most-classes", "20,000 characters: nn.Linear", 0.93, 0),
        ("most-classes", "20,000 characters: nn.Linear", 0.95, 1),
        ("most-classes", "20,000 characters: nn.Linear", 0.995, 2),
        ("long-training", "nn.Linear", 0.55, 1),
        ("long-training", "class means in bfloat16 rows, NONL", 0.97, 1),
        ("long-training", "Kerdock", 0.6, 1),
    ],
)
def test_every_head_decides_on_many_classes(name, variant, accuracy, failing):
    claim = find_claim(name)
    evidence = supporting(claim)
    evidence[variant] = [record(COLLAPSED, accuracy=accuracy)]
    verdicts = [criterion.verdict for criterion in criteria_of(claim, evidence)]
    assert verdicts.count("not met") == failing


@pytest.mark.parametrize(("name", "mark"), [("many-classes", "90%"), ("long-training", "99%")])
def test_epochs_are_given_where_all_runs_have_come_so_far(name, mark):
    claim = find_claim(name)
    table = {row[0]: row[1:] for row in claim.lines(supporting(claim))}
    assert table[f"epochs to {mark} of the test images"][0] == "0.0"
    assert table[f"epochs to {mark} of the test images"][-1] == "–"


def test_seconds_of_most_classes_are_of_the_fastest_run():
    claim = find_claim("most-classes")
    evidence = {}
    for name, (own,) in supporting(claim).items():
        slow = replace(own, history=[replace(row, train_seconds=7.0) for row in own.history])
        evidence[name] = [slow, own]
    table = {row[0]: row[1:] for row in claim.lines(evidence)}
    assert table["seconds of training, fastest run"] == ("1", "1", "1")


@pytest.mark.parametrize("name", ["most-classes", "long-training", "many-classes-tuned"])
def test_memory_is_given_of_every_head_of_many_classes(name):
    claim = find_claim(name)
    table = {row[0]: row[1:] for row in claim.lines(supporting(claim))}
    assert len(table["kilobytes of the head in training"]) == len(claim.plans["reduced"].variants)


def test_the_memory_of_heads_in_training():
    """K = 1,000 and d = 64, behind the same backbone."""

    def counted(head_parameters, checkpoint_bytes):
        counts = Counts(head_parameters, 46_960 + head_parameters, checkpoint_bytes, 0)
        return [replace(record(COLLAPSED), counts=counts)]

    linear = counted(65_000, 448_504)
    assert head_bytes(linear, linear) == 16 * 65_000
    assert head_bytes(counted(64_000, 444_504), linear) == 16 * 64_000
    assert head_bytes(counted(0, 704_512), linear) == 2 * 4 * 64_000 + 4 * 1_000 + 8
    assert head_bytes(counted(0, 320_512), linear) == 2 * 64_000 + 4 * 1_000 + 8
