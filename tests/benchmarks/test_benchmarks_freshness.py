"""Results that are older than what they measure are found, and only these."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import freshness
from benchmarks.freshness import RESULTS, Result, meaning

pytestmark = pytest.mark.recipes
ROOT = Path(__file__).parents[2]
SOURCE = '''"""Twice."""

import math


def twice(x: float) -> float:
    """Times two."""
    return 2 * x  # not three times
'''
RESULT = Result("results/a.json", "python a.py", ("lib", "a.py"))


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a result of its first commit, in place of this one."""
    folder = tmp_path / "repository"
    for name in ("lib/b.py", "lib/__init__.py", "a.py", "other.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SOURCE)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    (folder / "results").mkdir()
    made = {"provenance": {"commit": git(folder, "rev-parse", "HEAD") + "-dirty"}}
    (folder / "results" / "a.json").write_text(json.dumps(made))
    point_at(folder, monkeypatch)
    return folder


def point_at(folder, monkeypatch):
    monkeypatch.setattr(freshness, "ROOT", folder)
    freshness.changed_files.cache_clear()
    freshness._changed.cache_clear()


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_every_committed_result_is_listed_with_what_is_there():
    committed = {
        str(file.relative_to(ROOT))
        for folder in ("benchmarks/results", "recipes/results")
        for file in (ROOT / folder).rglob("*.json")
    }
    assert {result.path for result in RESULTS} == committed
    assert len(RESULTS) == len(committed)
    assert all((ROOT / place).exists() for result in RESULTS for place in result.measures)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# not three times", "# doubled", True),
        ("Times two.", "Doubled.", True),
        ("import math", "import math, os", True),
        ("2 * x", "3 * x", False),
        ("2 * x", "2 + x", False),
    ],
)
def test_meaning_is_what_runs(old, new, same):
    assert (meaning(SOURCE) == meaning(SOURCE.replace(old, new))) is same


def test_a_change_of_what_is_measured_is_found(repository):
    assert RESULT.changes() == []
    replace(repository / "lib" / "b.py", "2 * x", "3 * x")
    freshness.changed_files.cache_clear()
    assert RESULT.changes() == ["lib/b.py"]


def test_other_changes_are_not(repository):
    replace(repository / "other.py", "2 * x", "3 * x")
    replace(repository / "lib" / "__init__.py", "2 * x", "3 * x")
    replace(repository / "lib" / "b.py", "Times two.", "Doubled.")
    (repository / "lib" / "new.py").write_text(SOURCE)
    assert RESULT.changes() == []


@pytest.mark.parametrize("changed", [False, True])
def test_a_moved_file_is_compared_with_what_it_was(changed, repository):
    git(repository, "mv", "other.py", "lib/moved.py")
    if changed:
        replace(repository / "lib" / "moved.py", "2 * x", "3 * x")
    assert RESULT.changes() == ["lib/moved.py"] * changed


def test_without_the_commit_or_git_nothing_is_known(repository, tmp_path, monkeypatch, capsys):
    replace(repository / "a.py", "2 * x", "3 * x")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    git(tmp_path, "clone", "-q", "--depth=1", repository.as_uri(), "shallow")
    point_at(tmp_path / "shallow", monkeypatch)
    assert RESULT.changes() is None
    point_at(repository, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert RESULT.changes() is None
    monkeypatch.setattr(freshness, "RESULTS", (RESULT,))
    freshness.main(strict=True)
    assert "nothing is known" in capsys.readouterr().out


def test_strict_fails_and_says_what_to_run(repository, monkeypatch, capsys):
    monkeypatch.setattr(freshness, "RESULTS", (RESULT,))
    freshness.main(strict=True)
    replace(repository / "a.py", "2 * x", "3 * x")
    freshness.changed_files.cache_clear()
    freshness.main()
    with pytest.raises(SystemExit):
        freshness.main(strict=True)
    assert "a.py; anew: python a.py" in capsys.readouterr().out
