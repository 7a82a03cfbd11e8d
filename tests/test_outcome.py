"""What a run of the tests found is counted right, in one process and in several."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.outcome import examples, room_of
from tools.outcome import errors_table, rooms_table, sentence

ROOT = Path(__file__).parent.parent
TESTS = """
import pytest
from hypothesis import given, settings, strategies as st

TRIED = []

@settings(max_examples=17, database=None, derandomize=True)
@given(st.integers())
def test_law(x):
    TRIED.append(x)

def test_it_ran_as_often_as_is_told():
    import os
    if "PYTEST_XDIST_WORKER" not in os.environ:
        assert len(TRIED) == 17

@pytest.mark.parametrize("error", [0.1, 0.3, 0.2])
def test_error(error, record_property):
    record_property("hostile", 4)
    record = {"quantity": "gram", "dtype": "float32", "size": "K=2", "bound": 1.0, "error": error}
    record_property("error", record)

def test_failed(record_property):
    record_property("faults", 100)
    raise AssertionError

@pytest.fixture
def broken():
    raise AssertionError

def test_broken(broken): ...

def test_survived(record_property):
    record_property("faults", 2)
    record_property("kills", 3)

@pytest.mark.skip
def test_skipped(): ...
"""


@pytest.mark.recipes
@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "several"])
def test_everything_is_added_up(options, tmp_path):
    (tmp_path / "tests" / "room").mkdir(parents=True)
    (tmp_path / "tests" / "room" / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--outcome=out.json"]
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    outcome = json.loads((tmp_path / "out.json").read_text())
    assert outcome["rooms"]["room"] == {
        "passed": 6,
        "failed": 2,
        "skipped": 1,
        "cases": 17 + 5,
        "examples": 17,
        "hostile": 12,
        "faults": 2,
        "kills": 3,
    }
    assert [record["error"] for record in outcome["errors"]] == [0.3]
    assert outcome["complete"]
    assert outcome["exit_status"] == 1
    assert rooms_table(outcome)[1][1:] == ("6", "2", "1", "22", "12", "2", "3")
    assert rooms_table(outcome)[-1][0] == "all"
    assert errors_table(outcome) == [("", "float32"), ("gram", "3.0e-01 (1.0e+00)")]
    assert "6 passed, 2 failed, 1 skipped" in sentence(outcome)
    assert "A part of the tests only" in sentence(outcome | {"complete": False})


def test_examples_that_were_thrown_away_do_not_count():
    cases = [{"status": status} for status in ("valid", "invalid", "overrun", "interesting")]
    assert examples({"generate-phase": {"test-cases": cases}, "stopped-because": "x"}) == 2


@pytest.mark.parametrize(
    ("nodeid", "room"),
    [
        ("tests/heads/test_head_laws.py::test_a[b/c::d]", "heads"),
        ("etf_heads/heads/_etf.py::etf_heads.heads._etf.ETFHead", "heads"),
        ("tests/test_tasks.py::test_a", "whole package"),
        ("etf_heads/_tasks.py::etf_heads._tasks.Tasks", "whole package"),
    ],
)
def test_rooms(nodeid, room):
    assert room_of(nodeid) == room
