"""Committed results that are older than the code that they measure.

    python -m benchmarks.freshness           # list them, with what changed and the command to rerun
    python -m benchmarks.freshness --strict  # fail if there are any, as before a release

A result is stale when a file that it measures has changed since the commit in its provenance, in
more than comments, docstrings and imports. New files and ``__init__.py`` do not count; moved files
are compared with what they were. Without git, or without that commit, as in a shallow clone, there
is no answer, which is no failure. A new result is a row in :data:`RESULTS`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import tyro

ROOT = Path(__file__).parent.parent

HEADS = ("etf_heads/geometry", "etf_heads/codes", "etf_heads/orientation", "etf_heads/heads")
LOSSES = ("etf_heads/losses", "etf_heads/kernels")
TRAINING = (*HEADS, *LOSSES, "etf_heads/collapse", "recipes/training", "recipes/data")

REHEARSAL = "recipes/rehearsal"
ADAPTATION = "recipes/adaptation"


class Result(NamedTuple):
    """A committed result.

    Attributes:
        path: of the JSON file, from the root of the repository.
        command: that makes it anew; "DIR" stands for the directory of the data.
        measures: files and folders whose changes may change its numbers.
    """

    path: str
    command: str
    measures: tuple[str, ...]

    def commit(self) -> str:
        """The commit that it is of."""
        text = (ROOT / self.path).read_text("utf-8")
        return str(json.loads(text)["provenance"]["commit"]).removesuffix("-dirty")

    def changes(self) -> list[str] | None:
        """Measured files that have changed since; None where that cannot be found out."""
        commit = self.commit()
        files = changed_files(commit)
        if files is None:
            return None
        measured = {new: old for new, old in files.items() if _is_in(new, self.measures)}
        return [new for new, old in measured.items() if _changed(commit, old, new)]


def _benchmark(name: str, *measures: str) -> Result:
    own = (f"benchmarks/{name}.py", "benchmarks/harness.py")
    command = f"python -m benchmarks --only {name}"
    return Result(f"benchmarks/results/{name}.json", command, (*own, *measures))


def _recipe(name: str, command: str, *measures: str) -> Result:
    return Result(f"recipes/results/{name}.json", f"python recipes/{command}", measures)


def _claim(name: str, *measures: str) -> Result:
    module = name.replace("-", "_")
    command = f"paper.py {name} --root DIR"
    return _recipe(f"claims/{name}", command, *TRAINING, f"recipes/claims/{module}.py", *measures)


RESULTS = (
    _benchmark("collapse", "etf_heads/collapse"),
    _benchmark("heads", "benchmarks/linear.py", *HEADS, *LOSSES),
    _benchmark("many_classes", "benchmarks/linear.py", *HEADS, *LOSSES),
    _benchmark("nearest_etf", *HEADS),
    _benchmark("savings", "benchmarks/published.py", "etf_heads/surgery"),
    _benchmark("training", *TRAINING),
    _recipe("multi-digits", "compare.py multi-digits", *TRAINING, "recipes/comparison/summary.py"),
    # All options of the next two: recipes/README.md.
    _recipe("nearest-heads", "compare.py multi-digits --seeds 0 1 2 3 4 --heads ...", *TRAINING),
    _recipe("cifar100-20", "compare.py cifar100 --root DIR --classes 20 ...", *TRAINING),
    # The table of docs/studies/replay.md has the options.
    _recipe("replay-orientation", "replay.py --heads random-rows ...", *TRAINING, REHEARSAL),
    _recipe("convert", "convert.py multi-digits", *TRAINING, "recipes/conversion/swap.py"),
    _recipe("theory", "theory.py grid", "etf_heads/theory", "recipes/verification/problems.py"),
    _recipe(
        "theory_landscape",
        "theory.py landscape",
        *("etf_heads/geometry", "etf_heads/theory", "recipes/verification/landscape.py"),
    ),
    _recipe("theory_images", "theory.py images", "etf_heads/theory", *TRAINING),
    *map(
        _claim,
        (
            *("single-source", "multi-source", "weighting", "dissection", "imbalance"),
            *("correlation", "saliency", "parameter-efficient", "defaults", "ahead"),
            *("losses", "temperature", "long-tail", "alignment", "many-classes"),
            *("separation", "multi-centre", "multi-label", "random-labels"),
            *("loss-or-head", "variance", "many-classes-tuned"),
            *("most-classes", "long-training"),
        ),
    ),
    _claim("vocabulary", "recipes/claims/language_models.py", "recipes/claims/source_code.py"),
    _claim("replay", REHEARSAL),
    *(
        _claim(name, "recipes/claims/perceptrons.py", "etf_heads/theory/_regression.py")
        for name in ("low-rank", "regression", "geometric-complexity")
    ),
    _claim("class-means", ADAPTATION),
    _claim("layer-tuning", ADAPTATION, "etf_heads/surgery/_tune.py"),
    _claim("transfer", ADAPTATION),
)


@cache
def changed_files(commit: str) -> dict[str, str] | None:
    """Python files of now that differ from those of a commit, and their names then."""
    listed = _git("diff", "--name-status", "--diff-filter=MR", "-M30", commit, "--", "*.py")
    if listed is None:
        return None
    rows = (line.split("\t") for line in listed.splitlines())
    return {row[-1]: row[1] for row in rows}


@cache  # most files are the same at several commits
def meaning(source: str) -> str:
    """Code without comments, docstrings and imports."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [s for s in statements if not _means_nothing(s)])
    return ast.dump(tree)


def _means_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Import | ast.ImportFrom)


@cache
def _changed(commit: str, old: str, new: str) -> bool:
    before = _git("show", f"{commit}:{old}")
    return before is None or meaning(before) != meaning((ROOT / new).read_text("utf-8"))


def _is_in(file: str, places: tuple[str, ...]) -> bool:
    inside = any(file == place or file.startswith(f"{place}/") for place in places)
    return inside and not file.endswith("/__init__.py")


def _git(*arguments: str) -> str | None:
    """The output of git; None where it fails or is not installed."""
    command = ["git", "-c", "core.quotePath=false", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.decode()


def main(*, strict: bool = False) -> None:
    """List the results that are older than what they measure.

    Args:
        strict: fail if there are any.
    """
    stale = 0
    for result in RESULTS:
        files = result.changes()
        if files is None:
            print(f"{result.path}: commit {result.commit()[:10]} is not here, so nothing is known")
        elif files:
            stale += 1
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            print(f"{result.path}: changed since {result.commit()[:10]}:")
            print(f"    {', '.join(files[:3])}{more}; anew: {result.command}")
    print(f"{stale} of {len(RESULTS)} results are older than what they measure")
    if strict and stale:
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.freshness", description=__doc__)
