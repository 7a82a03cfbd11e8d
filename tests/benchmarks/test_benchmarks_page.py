"""The page shows what the committed files say, escaped, and in one file."""

import copy
import json
import os

import pytest
from own_process import sleep

from benchmarks.__main__ import main
from benchmarks.harness import in_own_process, result_file, timings
from benchmarks.page import Section, Table, write_benchmarks_page
from benchmarks.registry import BENCHMARKS, Benchmark
from benchmarks.sections import savings as savings_section
from recipes.pages.page import Figure
from recipes.provenance import Provenance, provenance
from recipes.records import from_json
from recipes.storage import read_json
from tests.html_page import Page

pytestmark = pytest.mark.recipes
HOSTILE = "$\\frac{x_$ --> <script>alert('1')</script> & \"quoted\" {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def results():
    return {b: read_json(result_file(b.name)) for b in BENCHMARKS if result_file(b.name).exists()}


def render(results, path):
    sections = {
        b.name: (b.section(r), from_json(Provenance, r["provenance"])) for b, r in results.items()
    }
    write_benchmarks_page(sections, path)
    return path.read_text("utf-8")


def hostile(value):
    """The same result with every string, but for those that sections look for, made hostile."""
    if isinstance(value, dict):
        return {k: v if k in ("method", "date") else hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_the_program_renders_the_committed_results_in_one_file(
    results, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Benchmark, "run", lambda self: pytest.fail(f"{self.name} was run"))
    path = tmp_path / "deep" / "page.html"
    main(render_only=True, page=path)
    assert capsys.readouterr().out == f"page: {path}\n"
    text, page = path.read_text("utf-8"), Page()
    page.feed(text)
    assert page.tags.count("svg") >= len(results)
    assert page.is_self_contained()
    assert "<b>–</b>" not in text
    for benchmark, result in results.items():
        assert f'<li><a href="#{benchmark.name}">' in text  # in the list of contents
        made = result["provenance"]
        assert f'id="{benchmark.name}"' in text
        assert made["commit"] in text
        assert made["device"] in text
        assert f"torch {made['packages']['torch']}" in text


def test_hostile_strings_are_shown_as_they_are(results, tmp_path):
    text = render({b: hostile(r) for b, r in results.items()}, tmp_path / "page.html")
    page = Page()
    page.feed(text)
    assert page.is_self_contained()
    assert "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text


def test_results_of_failed_measurements_are_shown(results, tmp_path):
    kinds = {"collapse": "results", "nearest_etf": "solvers"}
    broken = {b: copy.deepcopy(r) for b, r in results.items() if b.name in kinds}
    by_name = {b.name: r for b, r in broken.items()}
    for name, kind in kinds.items():
        for row in by_name[name][kind][:6]:
            for measured in ("forward", "samples_per_second"):
                row.pop(measured, None)
            row["failed"] = "out of <memory>"
    ratios = next(iter(by_name["collapse"]["throughput_ratios"].values()))
    ratios.update(dict.fromkeys(ratios, float("nan")))
    assert "out of &lt;memory&gt;" in render(broken, tmp_path / "page.html")


def test_any_section_can_be_put_on_the_page(tmp_path):
    lines = [("", "a column"), ("a row", "1")]
    section = Section(
        "A <title>", "A verdict.", ("7", "cards"), [Figure("<svg></svg>", "f")], [Table(lines, "t")]
    )
    made = provenance("cpu")
    write_benchmarks_page({"another": (section, made)}, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "A &lt;title&gt;" in text
    assert "<svg></svg>" in text
    assert "a row" in text


def test_verdict_of_savings_is_computed_from_the_rows(results):
    rows = [dict(r) for r in results[BENCHMARKS[0]]["rows"]]
    few = sorted(r["share"] for r in rows if r["classes"] == 1000)
    middle = (few[(len(few) - 1) // 2] + few[len(few) // 2]) / 2
    verdict = BENCHMARKS[0].section(results[BENCHMARKS[0]]).verdict
    assert f"holds {middle:.1%} of the parameters" in verdict
    for row in rows:
        row["share"] = 0.123
    changed = BENCHMARKS[0].section(results[BENCHMARKS[0]] | {"rows": rows}).verdict
    assert "holds 12.3% of the parameters" in changed


@pytest.mark.parametrize(
    ("ours", "weights", "published", "agrees"),
    [(8.0174, 8.0135, 8.01, True), (20.6965, 20.6964, 20.7, True), (52.95, 52.90, 52.56, False)],
)
def test_published_figures_agree_to_their_own_digits(ours, weights, published, agrees):
    row = {"percent": ours, "weights_percent": weights, "published_percent": published}
    assert savings_section.agrees(row) is agrees


def test_the_program_measures_what_it_is_asked_and_can(tmp_path, capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(Benchmark, "run", lambda self: ran.append(self.name))
    monkeypatch.setattr("benchmarks.__main__.result_file", tmp_path.joinpath)
    monkeypatch.setattr(
        "benchmarks.registry.find_spec", lambda name: {"torchmetrics": None}.get(name, name)
    )
    main(only=("collapse", "nearest_etf"), page=tmp_path / "page.html")
    assert ran == ["nearest_etf"]
    assert "collapse: left out, needs torchmetrics" in capsys.readouterr().out


def test_every_benchmark_says_what_it_needs():
    assert Benchmark("none", needs=("json", "no_such_module")).missing == ["no_such_module"]
    assert not any(b.missing for b in BENCHMARKS)


def test_a_process_of_its_own_reports_stops_and_fails():
    assert in_own_process(sleep, seconds=0)["pid"] != os.getpid()
    assert in_own_process(sleep, seconds=-1) == {"failed": "ValueError: seconds=-1"}
    found = in_own_process(sleep, limit=0.1, seconds=60)
    assert found == {"stopped": "did not finish in 0.1 s"}


def test_timings_stop_at_time_or_count():
    clock = iter(range(100))
    assert timings(lambda: None, "cpu", seconds=0, most=9, now=lambda: next(clock)) == [1]
    assert timings(lambda: None, "cpu", seconds=3, most=9, now=lambda: next(clock)) == [1, 1, 1]
    assert timings(lambda: None, "cpu", seconds=99, most=2, now=lambda: next(clock)) == [1, 1]


def test_results_are_json_that_every_reader_takes(results):
    for result in results.values():
        json.dumps(result, allow_nan=False)
