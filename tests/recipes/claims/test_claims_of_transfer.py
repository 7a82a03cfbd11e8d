"""Claims about transfer: what decides on them."""

from dataclasses import replace

import pytest
from claim_evidence import criteria_of, end_at, record, supporting
from recipe_results import PROVENANCE

from recipes.claims import class_means, find_claim
from recipes.claims.claim import Judged
from recipes.claims.report import numbers_table
from recipes.claims.transfer import CHECKPOINTS


def failed(claim, evidence):
    """Number of criteria that are not met."""
    return [c.verdict == "met" for c in criteria_of(claim, evidence)].count(False)


def with_end(found, **values):
    """The same record with other measures at its end."""
    *before, last = found.history
    return replace(found, history=[*before, replace(last, collapse=last.collapse | values)])


def with_start(found, **values):
    """The same record with other measures at its start."""
    first, *after = found.history
    return replace(found, history=[replace(first, collapse=first.collapse | values), *after])


@pytest.mark.parametrize("name", [class_means.CLASS_MEANS, class_means.ETF])
def test_both_domains_decide_on_class_means(name):
    claim = find_claim("class-means")
    for accuracy, count in ((0.7101, 0), (0.7099, 1)):  # nn.Linear has 0.7
        evidence = supporting(claim)
        evidence[name] = [with_end(evidence[name][0], shifted=accuracy)]
        assert failed(claim, evidence) == count
    for accuracy, count in ((0.9851, 0), (0.9849, 1)):  # and 0.99 in the domain
        evidence = supporting(claim)
        end_at(evidence[name][0], accuracy)
        assert failed(claim, evidence) == count


@pytest.mark.parametrize("other", ["learned cosines", "centred class means"])
def test_controls_do_not_decide_on_class_means(other):
    claim = find_claim("class-means")
    evidence = supporting(claim)
    evidence[other] = [record({"shifted": (None, 0.1)}, accuracy=0.1)]
    assert failed(claim, evidence) == 0


def test_blocks_that_collapse_more_have_to_be_better():
    claim = find_claim("layer-tuning")
    evidence = supporting(claim)
    evidence["layer1.0"], evidence["layer4.0"] = (
        [with_end(evidence[name][0], nc1=nc1)] for name, nc1 in (("layer1.0", 0.3), ("layer4.0", 1))
    )
    assert failed(claim, evidence) == 1


@pytest.mark.parametrize(
    ("name", "accuracy", "met"),
    [
        ("probe", 0.749, True),  # the best block has 0.78
        ("probe", 0.751, False),
        ("all layers", 0.799, True),
        ("all layers", 0.801, False),
        ("layer4.1, skip", 0.776, True),
        ("layer4.1, skip", 0.774, False),
    ],
)
def test_the_best_block_decides_on_layer_tuning(name, accuracy, met):
    claim = find_claim("layer-tuning")
    evidence = supporting(claim)
    evidence["probe"] = [with_end(evidence["probe"][0], nc1=2.0)]
    end_at(evidence[name][0], accuracy)
    criteria = criteria_of(claim, evidence)[1:]
    assert [c.verdict == "met" for c in criteria].count(False) == (0 if met else 1)


def test_the_best_block_is_chosen_by_the_images_held_out():
    claim = find_claim("layer-tuning")
    evidence = supporting(claim)
    evidence["layer2.1"] = [with_end(evidence["layer2.1"][0], held_out=0.99)]  # 0.74 of the tests
    probe, full, skip = criteria_of(claim, evidence)[1:]
    assert probe.values == pytest.approx([4, 4])
    assert full.values == pytest.approx([-5, -5])
    assert skip.values == pytest.approx([4, 4])  # with the connection, still the last block


def test_checkpoints_decide_on_transfer():
    claim = find_claim("transfer")
    last = f"{CHECKPOINTS[-1]} epochs"
    for name, accuracy, count in (
        (f"parity, {last}", 0.769, 0),  # the best has 0.8
        (f"parity, {last}", 0.771, 1),
        (f"digit, {last}", 0.801, 0),  # the first has 0.8
        (f"digit, {last}", 0.799, 1),
    ):
        evidence = supporting(claim)
        end_at(evidence[name][0], accuracy)
        assert failed(claim, evidence) == count, (name, accuracy)


def test_only_fitted_checkpoints_are_compared():
    claim = find_claim("transfer")
    evidence = supporting(claim)
    first = f"parity, {CHECKPOINTS[0]} epochs"
    evidence[first] = [with_start(evidence[first][0], source_variance=0.01)]
    assert failed(claim, evidence) == 1
    evidence[first] = [with_start(evidence[first][0], source_loss=0.11)]
    assert failed(claim, evidence) == 0


@pytest.mark.parametrize("epoch", CHECKPOINTS)
def test_every_layer_decides_on_transfer(epoch):
    claim = find_claim("transfer")
    name = f"parity, {epoch} epochs"
    evidence = supporting(claim)
    start = with_start(evidence[name][0], **{"source_backbone.2": 4.1})
    evidence[name] = [start]
    assert failed(claim, evidence) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_splits_decide_on_variance(split):
    claim = find_claim("variance")
    evidence = supporting(claim)
    names = list(evidence)
    ends = [evidence[name][0].extra[split] for name in (names[0], names[-1])]
    for name, value in zip((names[-1], names[0]), ends, strict=True):
        own = evidence[name][0]
        evidence[name] = [replace(own, extra=own.extra | {split: value})]
    assert failed(claim, evidence) == 1


@pytest.mark.parametrize("name", ["class-means", "layer-tuning", "transfer", "variance"])
def test_tables_of_claims_about_transfer(name):
    claim = find_claim(name)
    evidence = supporting(claim)
    doubled = {variant: records * 2 for variant, records in evidence.items()}
    judged = Judged(name, "reduced", doubled, list(claim.judge(doubled)), PROVENANCE)
    cells = [cell for line in numbers_table(claim, judged) for cell in line]
    assert set(evidence) <= set(cells)
    assert not any("nan" in cell for cell in cells)
