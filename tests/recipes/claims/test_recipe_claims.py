"""Claims: verdicts follow the numbers, and runs, results and pages belong together."""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from claim_evidence import supporting
from matplotlib.figure import Figure
from recipe_results import PROVENANCE
from scipy import stats

from recipes.claims import find_claim
from recipes.claims.claim import Claim, Criterion, Judged, Plan, Variant, overall
from recipes.claims.evidence import directory, gather
from recipes.claims.record import extras
from recipes.claims.report import numbers_table, verdict, write_claim
from recipes.claims.request import Request
from recipes.paper import main
from recipes.records import from_json, read_record, to_json
from recipes.storage import read_json
from tests.html_page import Page

TINY = {"epochs": 1, "train_images": 400, "test_images": 200, "width": 2}


@pytest.mark.parametrize("relation", ["at most", "at least"])
def test_a_criterion_is_decided_by_its_interval(relation):
    def criterion(*values):
        return Criterion("it", values, relation, 2.0, "why")

    low, high = criterion(1.0, 1.1, 1.2), criterion(2.8, 2.9, 3.0)
    assert (low.verdict, high.verdict)[:: 1 if relation == "at most" else -1] == ("met", "not met")
    assert criterion(1.0, 2.5, 3.0).verdict == "undecided"  # the threshold is in 2.17 ± 2.58
    assert criterion(2.0, 2.0).verdict == "met"  # at the threshold, and no spread
    assert criterion(3.0).verdict == criterion(1.0).verdict == "undecided"  # one seed
    assert criterion(math.nan, 2.0).verdict == "not met"
    assert low.interval.mean == pytest.approx(1.1)


def test_the_number_of_seeds_that_would_decide():
    values = [1.5, 2.5, 3.5]  # mean 2.5, standard deviation 1
    criterion = Criterion("it", values, "at least", 2.0, "why")
    assert criterion.verdict == "undecided"
    n = criterion.seeds_needed
    halves = [stats.t.ppf(0.975, m - 1) / math.sqrt(m) for m in (n - 1, n)]
    assert halves[1] <= 0.5 < halves[0]
    assert replace(criterion, threshold=0.0).seeds_needed is None  # 2.5 ± 2.48 is above it
    assert replace(criterion, threshold=2.5).seeds_needed is None  # no number would
    assert replace(criterion, values=[2.5]).seeds_needed is None


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["met", "met"], "holds"),
        (["met", "undecided"], "undecided"),
        (["undecided", "not met", "met"], "does not hold"),
    ],
)
def test_the_verdict_on_a_claim(verdicts, expected):
    assert overall(verdicts) == expected


@dataclass(frozen=True)
class Seen:
    """An examination."""

    images: int
    training: bool
    epochs: int


def on_digits(claim_name="a"):
    """A claim on images that need no files."""
    hostile = "<script>alert(1)</script>"
    return Claim(
        name=claim_name,
        title=f"Title {hostile}",
        says=hostile,
        plans={"reduced": Plan("multi-digits", TINY, {hostile[:7]: Variant({"head": "compound"})})},
        judge=lambda evidence: [
            Criterion(
                hostile,
                [len(r.history) for r in next(iter(evidence.values()))],
                "at least",
                2,
                hostile,
            )
        ],
        measures=("s_nc1_ratio",),
        examine=lambda network, data, result: Seen(
            len(data.test), network.training, len(result.history)
        ),
    )


def request(tmp_path, **changes):
    options = {"size": "reduced", "output": tmp_path, "root": tmp_path, "download": False}
    return Request(**(options | changes))


def test_a_claim_is_run_once_examined_judged_and_shown(tmp_path):
    claim = on_digits()
    found = gather(claim, request(tmp_path, seeds=(0, 1)))
    records = next(iter(found.evidence.values()))
    assert [r.seed for r in records] == [0, 1]
    assert extras(records, Seen) == [Seen(images=200, training=False, epochs=2)] * 2
    assert found.verdict == "holds"
    assert verdict(found).startswith("Holds at reduced size; not run at full size: 1 of 1")

    again = gather(claim, request(tmp_path, seeds=(0, 1)))  # trains nothing
    assert again == found

    write_claim(claim, found, tmp_path / "a.html")
    page = Page()
    page.feed((tmp_path / "a.html").read_text("utf-8"))
    assert page.is_self_contained()
    assert "script" not in page.tags
    assert "svg" in page.tags


def test_evidence_can_be_judged_again_from_its_file(tmp_path):
    claim = on_digits()
    found = gather(claim, request(tmp_path))
    kept = from_json(Judged, json.loads(json.dumps(to_json(found), allow_nan=False)))
    assert kept == found
    assert list(claim.judge(kept.evidence)) == found.criteria


RESULTS = Path(__file__).parents[3] / "recipes" / "results" / "claims"


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_committed_verdicts_follow_from_their_evidence(file, tmp_path, monkeypatch):
    written, kept = read_json(file), read_record(Judged, file)
    claim = find_claim(kept.claim)
    assert set(kept.evidence) == set(claim.plans[kept.size].variants)
    anew = to_json(replace(kept, criteria=list(claim.judge(kept.evidence))))
    assert {name: anew[name] for name in ("criteria", "verdict")} == {
        name: written[name] for name in ("criteria", "verdict")
    }
    assert len(numbers_table(claim, kept)) > len(claim.measures)
    own = claim.figures(kept.evidence)
    # Pictures that all claims have are drawn above.
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write("<svg></svg>"))
    write_claim(replace(claim, figures=lambda _: own), kept, tmp_path / "claim.html")
    page = (tmp_path / "claim.html").read_text("utf-8")
    assert verdict(kept) in page
    assert kept.provenance.commit in page


def test_a_table_of_many_variants_has_a_row_for_each():
    claim = find_claim("weighting")
    evidence = supporting(claim)
    judged = Judged(claim.name, "reduced", evidence, list(claim.judge(evidence)), PROVENANCE)
    header, *rows = numbers_table(claim, judged)
    assert [row[0] for row in rows] == list(evidence)
    assert header[:2] == ("", "test accuracy, %")


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recipes.claims.find_claim", lambda _: on_digits("single-source"))
    arguments = ["paper.py", "single-source", "--output", str(tmp_path), "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    assert "Undecided at reduced size" in capsys.readouterr().out
    before = (tmp_path / "single-source.json").read_bytes()
    (tmp_path / "single-source.html").unlink()
    monkeypatch.setattr(sys, "argv", [*arguments, "--render-only"])
    main()
    assert (tmp_path / "single-source.html").exists()
    assert (tmp_path / "single-source.json").read_bytes() == before


def test_missing_data_says_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["paper.py", "single-source", "--root", str(tmp_path), "--output", "x"]
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="--download"):
        main()


def test_a_head_fixed_midway_ends_without_head_weights(tmp_path):
    variant = find_claim("parameter-efficient").plans["reduced"].variants["fixed midway"]
    claim = Claim(
        name="midway",
        title="",
        says="",
        plans={"reduced": Plan("multi-digits", TINY | {"epochs": 2}, {"midway": variant})},
        judge=lambda _: [],
        measures=(),
    )
    (found,) = gather(claim, request(tmp_path, seeds=(0,))).evidence["midway"]
    assert found.counts.head_parameters <= 21  # biases, and one scale
    assert len(found.history) == 2  # from before its epoch, and after it


def test_directories_have_names_that_every_system_takes(tmp_path):
    assert directory(tmp_path, "long tail: learned, ntce-seed3").name == (
        "long tail learned, ntce-seed3"
    )
    former = tmp_path / "long tail: fixed-seed3"
    former.mkdir()
    assert directory(tmp_path, former.name) == former
