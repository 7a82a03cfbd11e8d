import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from recipe_checks import scans_of

import recipes.theory
from etf_heads.theory import binary_cosine
from recipes.data import SHARES
from recipes.data.digits import TRAIN_BINARY, binary_digits
from recipes.provenance import provenance
from recipes.records import from_json, to_json
from recipes.verification.config import Grid, Images
from recipes.verification.descent import Summary as GridSummary
from recipes.verification.descent import check
from recipes.verification.effective import (
    closed_form,
    effective_lambdas,
    fit_strength,
    limit_cosine,
)
from recipes.verification.grid_report import grid_table, grid_verdict, write_grid_report
from recipes.verification.images import Summary, SweepRun, summarise
from recipes.verification.images_report import images_table, images_verdict, write_images_report
from recipes.verification.problems import general, grid, two_binary_tasks
from tests.html_page import Page

pytestmark = pytest.mark.recipes
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def lines():
    merged = two_binary_tasks(0.95, 1e-2, 1e-2)
    torn = general("<b>a name</b>", torch.tensor([[9.0, 0, 2], [1, 5, 3]]), 1e-3, 1e-3)
    return [check(problem, starts=2) for problem in [*grid(small=True), merged, torn]]


def grid_summary(lines):
    made = replace(provenance("cpu", processes=1), device="<i>a machine</i>")
    return GridSummary(TOLERANCE, 2, lines, made)


def test_descent_ends_where_theory_says(lines):
    assert [line.theorem for line in lines] == ["3.1", "3.2", "5.1", "general", "5.1", "general"]
    assert all(line.agrees(TOLERANCE) for line in lines)
    assert "On all 6 problems" in grid_verdict(grid_summary(lines))
    merged = lines[4].cosines
    for source in ("theory", "solver", "descent"):
        assert math.isclose(merged[source][0][2], 1, abs_tol=1e-5)


def test_the_whole_grid_covers_every_theorem():
    problems = grid()
    count = {t: sum(p.theorem == t for p in problems) for t in ("3.1", "3.2", "5.1", "general")}
    assert count == {"3.1": 14, "3.2": 3, "5.1": 3 * len(SHARES), "general": 15}
    names = [problem.name for problem in problems]
    assert len(set(names)) >= len(names) - 1  # K = 3, 5 is there with and without shared samples
    assert sum("merged" in name for name in names) == 3
    random = [p.sources[0].counts for p in problems if p.name.startswith("random")]
    assert any(len(c.counts) < math.prod(c.tasks.sizes) for c in random)


@pytest.mark.parametrize("wrong", ["gram", "logits"])
def test_a_wrong_theory_is_found_out(wrong):
    problem = two_binary_tasks(0.9, 5e-3, 1e-5)
    source = problem.sources[0]
    value = getattr(source, wrong).clone()
    value[0, 2] += 2e-3 * value.abs().max()
    line = check(replace(problem, sources=(replace(source, **{wrong: value}),)), starts=1)
    assert not line.agrees(TOLERANCE)
    summary = grid_summary([line])
    assert not summary.agrees
    assert "1 of 1 problems deviate" in grid_verdict(summary)
    assert grid_table(summary)[-1][-1] == "DISAGREES"


@pytest.mark.parametrize("p", SHARES)
def test_labels_agree_in_exactly_the_stated_share(p):
    data = binary_digits(p)
    labels = data.train.labels
    assert len(labels) == TRAIN_BINARY
    assert int((labels[:, 0] == labels[:, 1]).sum()) == round(p * TRAIN_BINARY)
    assert labels.double().mean(0).tolist() == [0.5, 0.5]
    pairs, numbers = data.test.labels.unique(dim=0, return_counts=True)
    assert len(pairs) == 4
    assert numbers.tolist() == [500] * 4
    assert torch.equal(data.test.images, binary_digits(0.5).test.images)


@pytest.mark.parametrize("p", [0.5, 0.99])
def test_no_scan_of_binary_digits_is_in_both_splits(p):
    data = binary_digits(p)
    assert not scans_of(data.train.images) & scans_of(data.test.images)
    assert len(data.train.images.flatten(1).unique(dim=0)) == TRAIN_BINARY


@pytest.mark.parametrize("p", [0.0, 1.0, 0.50001, -0.5])
def test_shares_that_no_images_can_have_are_refused(p):
    with pytest.raises(ValueError, match="even number"):
        binary_digits(p)


def optimal_network(share, lambda_w, lambda_h):
    """Features, logits, labels and class vectors of 400 samples at Theorem 5.1's optimum."""
    source = two_binary_tasks(share, lambda_w, lambda_h).sources[0]
    values, vectors = torch.linalg.eigh(source.gram)
    weight = vectors[:, -2:] * values[-2:].sqrt()
    features = source.logits @ torch.linalg.pinv(weight).T
    times = source.counts.counts.round().long()
    labels = source.counts.labels.repeat_interleave(times, dim=0)
    logits = source.logits.repeat_interleave(times, dim=0).unflatten(1, (2, 2))
    return features.repeat_interleave(times, dim=0), logits, labels, weight


def test_effective_lambdas_of_the_optimum_are_its_own():
    found = effective_lambdas(*optimal_network(0.8, 5e-3, 1e-5))
    assert math.isclose(found.lambda_w, 5e-3, rel_tol=1e-9)
    assert math.isclose(found.lambda_h, 1e-5, rel_tol=1e-9)
    assert math.isclose(found.strength_different, 2e-5, rel_tol=1e-9)
    assert math.isclose(found.cosine_from_margins, binary_cosine(0.8, 5e-3, 1e-5, 400))


def test_fit_finds_the_strength_of_the_closed_form():
    assert math.isclose(fit_strength(SHARES, closed_form(SHARES, 3e-5)), 3e-5, rel_tol=1e-2)
    assert math.isclose(limit_cosine(0.8), 1 / 3)


@pytest.fixture
def sweep():
    shares, effective = (0.5, 0.9), effective_lambdas(*optimal_network(0.8, 5e-3, 1e-5))
    runs = [
        SweepRun(p, head, seed, c + 0.01 * seed, 0.98, 0.9, effective if learned else None)
        for head, learned in (("learned-norm", True), ("correlated", False))
        for seed in (0, 1)
        for p, c in zip(shares, closed_form(shares, 2e-5), strict=True)
    ]
    settings = {"backbone": "<u>cnn</u>", "epochs": 1}
    made = provenance("cpu", processes=1, mixed_precision="no")
    return Summary(**vars(summarise(runs)), settings=settings, provenance=made, examined="c" * 40)


def test_sweep_is_summarised_over_seeds(sweep):
    cell = sweep.heads["learned-norm"][1]
    assert cell.cosine.n == 2
    assert math.isclose(cell.at_share.mean, 0.9 * 0.98 + 0.1 * 0.9)
    assert math.isclose(cell.balanced.mean, 0.94)
    assert list(sweep.fits) == ["learned-norm"]
    assert sweep.fits["learned-norm"].rms < 0.01
    assert "better than “learned-norm” nowhere and worse nowhere" in images_verdict(sweep)
    assert {len(line) for line in images_table(sweep)} == {3}
    alone = summarise([run for run in sweep.runs if run.seed == 0])
    assert "With one seed, no more can be said" in images_verdict(alone)
    assert from_json(Summary, json.loads(json.dumps(to_json(sweep), allow_nan=False))) == sweep


@pytest.mark.parametrize(("kind", "pictures"), [("grid", 3), ("images", 2)])
def test_each_page_is_one_file_with_everything_in_it(kind, pictures, lines, sweep, tmp_path):
    path = tmp_path / "page.html"
    if kind == "grid":
        write_grid_report(grid_summary(lines), path)
        escaped = ["&lt;b&gt;a name&lt;/b&gt;", "&lt;i&gt;a machine&lt;/i&gt;"]
    else:
        write_images_report(sweep, path)
        escaped = ["&lt;u&gt;cnn&lt;/u&gt;"]
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("svg") == pictures
    assert page.is_self_contained()
    assert 'colspan="8">Theorem 5.1' in text or kind == "images"
    assert all(name in text for name in escaped)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Grid, {"starts": 0}, "starts=0"),
        (Grid, {"tolerance": 0.0}, "tolerance=0.0"),
        (Grid, {"random_problems": -1}, "random_problems=-1"),
        (Images, {"shares": (0.55,)}, r"shares=\[0.55\]"),
        (Images, {"seeds": (0, 0)}, "none twice"),
    ],
)
def test_wrong_settings_are_named(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_the_program_writes_verdict_json_and_page(tmp_path, monkeypatch, capsys):
    arguments = ["theory.py", "grid", "--small", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as exit_:
        recipes.theory.main()
    assert exit_.value.code == 0
    assert "On all 4 problems" in capsys.readouterr().out
    saved = json.loads((tmp_path / "theory.json").read_text())
    assert saved["agrees"]
    assert saved["provenance"]["packages"]["torch"]
    assert (tmp_path / "theory.html").exists()
