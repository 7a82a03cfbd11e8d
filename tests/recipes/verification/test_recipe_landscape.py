"""Critical points and flows from Hadamard starts: the checks, and that they can fail."""

import dataclasses
import math

import pytest
import torch

from etf_heads.theory import SquaredError
from recipes.provenance import provenance
from recipes.records import from_json, to_json
from recipes.verification import landscape
from recipes.verification.config import Landscape
from recipes.verification.landscape import (
    Case,
    Check,
    OfUnitLength,
    hadamard_checks,
    landscape_checks,
)
from recipes.verification.landscape_report import (
    Summary,
    landscape_table,
    landscape_verdict,
    write_landscape_report,
)
from tests.html_page import Page

pytestmark = pytest.mark.recipes


@pytest.fixture(scope="module")
def few():
    """One size and one loss."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landscape, "CASES", {"squared error": Case(SquaredError())})
        patch.setattr(landscape, "SIZES", ((3, 2),))
        yield


@pytest.fixture(scope="module")
def summary(few):  # noqa: ARG001 (by name)
    checks = [*landscape_checks(1, seed=10), *hadamard_checks(seed=10)]
    return Summary(1, 10, checks, provenance("cpu"))


def test_critical_points_are_saddles_and_singular_vectors_stay(summary):
    assert [check.holds for check in summary.checks] == [True] * 9
    saddles = summary.checks[0]
    assert saddles.found < -0.01
    assert saddles.points > 0
    assert "each is a strict saddle" in landscape_verdict(summary)


@pytest.mark.usefixtures("few")
def test_a_wrong_closed_form_is_found_out(monkeypatch):
    least = Case.least
    monkeypatch.setattr(Case, "least", lambda *given: least(*given) + 1e-3)
    checks = list(landscape_checks(1, seed=10))
    assert not any(check.holds for check in checks if "descent" in check.name)
    summary = Summary(2, 10, checks, provenance("cpu"))
    assert not summary.holds
    assert "criteria do not hold: " in landscape_verdict(summary)
    assert landscape_table(summary)[-1][-1] == "DOES NOT HOLD"


def test_vectors_of_unit_length(monkeypatch):
    case = Case(normalised=5.0)
    monkeypatch.setattr(landscape, "CASES", {"normalised": case})
    monkeypatch.setattr(landscape, "SIZES", ((3, 2),))
    saddles, below, descent = landscape_checks(2, seed=10)
    assert (saddles.holds, below.holds, descent.holds) == (True, True, True)
    assert 6 >= below.points >= saddles.points > 0
    assert saddles.found < -1e-2


def test_the_spring_leaves_the_sphere_alone():
    """Slopes and curvature along the sphere are those of the model; across it there is 4."""
    model = Case(normalised=5.0).model(3, 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for part in model.parameters():
            part.div_(part.norm(dim=1, keepdim=True))
    tied = OfUnitLength(model)
    assert tied().item() == pytest.approx(model().item(), rel=1e-12)
    slopes = [torch.autograd.grad(m(), list(model.parameters())) for m in (model, tied)]
    for plain, other in zip(*slopes, strict=True):
        torch.testing.assert_close(plain, other)
    with torch.no_grad():
        model.weight[0] *= 1.001
    assert (tied() - model()).item() == pytest.approx(0.5 * (1.001**2 - 1) ** 2)
    free = OfUnitLength(Case().model(3, 2))
    assert torch.equal(free(), free.model())


def test_nothing_found_does_not_hold():
    nothing = Check("landscape", "saddles", math.nan, "≤", -1e-6, 0)
    assert not nothing.holds
    assert not dataclasses.replace(nothing, relation="≥").holds


def test_record_and_page(summary, tmp_path):
    assert from_json(Summary, to_json(summary)) == summary
    write_landscape_report(summary, tmp_path / "page.html")
    page = Page()
    text = (tmp_path / "page.html").read_text()
    page.feed(text)
    assert page.is_self_contained()
    assert 'colspan="5">Two layers from a Hadamard start' in text


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="starts=0: at least 1 is needed"):
        Landscape(starts=0)
