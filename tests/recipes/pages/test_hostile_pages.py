"""Names and results that an enemy wrote are shown on the pages as they are, and run nothing."""

import json
from pathlib import Path

import pytest

from recipes.claims import find_claim
from recipes.claims.claim import Judged
from recipes.claims.report import write_claim
from recipes.comparison.report import write_report
from recipes.comparison.summary import Comparison
from recipes.conversion.report import write_convert_report
from recipes.conversion.summary import Summary as Conversions
from recipes.records import from_json
from recipes.storage import read_json
from recipes.verification.descent import Summary as Grid
from recipes.verification.grid_report import write_grid_report
from recipes.verification.images import Summary as Sweep
from recipes.verification.images_report import write_images_report
from tests.html_page import Page

pytestmark = pytest.mark.recipes
RESULTS = Path(__file__).parents[3] / "recipes" / "results"
HOSTILE = "$\\frac{x_$ --></svg><script>alert('1')</script> & \"quoted\" {{ 7 * 7 }}<img src=x>"


def single_source(result, path):
    write_claim(find_claim("single-source"), result, path)


PAGES = {
    "nearest-heads": (write_report, Comparison, {"heads", "tasks", "accuracy_by_task"}),
    "convert": (write_convert_report, Conversions, {"heads", "ways"}),
    "theory": (write_grid_report, Grid, set()),
    "theory_images": (write_images_report, Sweep, {"heads", "fits"}),
    "claims/single-source": (single_source, Judged, {"tasks", "accuracy"}),
}
"""How each is rendered, of what, and under what keys names stand that the user chose."""

LOOKED_UP = {"date", "theorem", "relation", "size"}
"""Strings that the pages go by, and that only the programs write."""


def hostile(value, named, key=None):
    """The same result with every string and every name made hostile."""
    if isinstance(value, dict):
        end = HOSTILE if key in named else ""
        return {k + end: hostile(v, named, k) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(item, named) for item in value]
    return value + HOSTILE if isinstance(value, str) and key not in LOOKED_UP else value


@pytest.mark.parametrize("name", PAGES)
def test_hostile_strings_are_shown_as_they_are(name, tmp_path):
    write, kind, named = PAGES[name]
    bad = json.loads(json.dumps(hostile(read_json(RESULTS / f"{name}.json"), named)))
    write(from_json(kind, bad), tmp_path / "page.html")
    text, page = (tmp_path / "page.html").read_text("utf-8"), Page()
    page.feed(text)
    assert page.is_self_contained()
    assert page.tags.count("svg") == text.count("</svg>") > 0  # none ends another one's
    assert "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert "<script" not in text
