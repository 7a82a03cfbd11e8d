"""What a run of the tests found, written down: ``pytest --outcome=FILE``.

A test says what it went through with ``record_property``: ``faults`` and ``kills`` that were
survived, ``hostile`` inputs that were refused or escaped, and an ``error`` that was measured (a
record of ``tests/numerics`). The examples that hypothesis tried are counted here.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis.statistics import collector

COUNTED = ("examples", "faults", "kills", "hostile")
"""Properties of tests that are added up."""

OTHER_ROOM = "whole package"


@pytest.hookimpl(wrapper=True, trylast=True)  # inside the wrapper of hypothesis
def pytest_runtest_call(item):
    """Count the examples of property-based tests; as a property they travel between processes."""
    report, tried = collector.value, []

    def count(statistics):
        tried.append(examples(statistics))
        if report is not None:
            report(statistics)

    with collector.with_value(count):
        try:
            return (yield)
        finally:
            if tried:
                item.user_properties.append(("examples", sum(tried)))


def examples(statistics):
    """Examples whose test ran to its end, of what hypothesis says of its phases."""
    cases = [
        case
        for name, phase in statistics.items()
        if name.endswith("-phase")
        for case in phase["test-cases"]
    ]
    return sum(case["status"] in ("valid", "interesting") for case in cases)


def room_of(nodeid):
    """The package that a test, or a doctest, is of."""
    folder = Path(nodeid.partition("::")[0]).parent
    return folder.parts[1] if len(folder.parts) > 1 else OTHER_ROOM


class Outcome:
    """Adds up what the tests report; a plugin of the process that hears of all of them."""

    def __init__(self, config):
        from recipes.provenance import provenance  # noqa: PLC0415 (extra)

        self.path = Path(config.option.outcome).absolute()
        self.command = shlex.join(["pytest", *config.invocation_params.args])
        named = config.args_source is not config.ArgsSource.TESTPATHS
        self.complete = not (named or config.option.keyword)
        self.provenance = provenance("cpu")
        self.provenance["packages"] |= {name: version(name) for name in ("pytest", "hypothesis")}
        self.start = time.monotonic()
        self.rooms = defaultdict(Counter)
        self.failed = set()
        self.errors = {}

    def pytest_runtest_logreport(self, report):
        """Take note of one phase of one test."""
        tally = self.rooms[room_of(report.nodeid)]
        if report.failed and report.nodeid not in self.failed:
            self.failed.add(report.nodeid)
            tally["failed"] += 1
        tally["skipped"] += report.skipped
        if report.when == "call" and report.passed:
            tally["passed"] += 1
            self._add(tally, report.user_properties)

    def _add(self, tally, properties):
        found = Counter()
        for name, value in properties:
            if name in COUNTED:
                found[name] += value
            elif name == "error":
                self._keep_worst(value)
        tally.update(found)
        tally["cases"] += max(1, found["examples"])

    def _keep_worst(self, record):
        key = record["quantity"], record["dtype"]
        if key not in self.errors or _share(record) > _share(self.errors[key]):
            self.errors[key] = record

    def pytest_sessionfinish(self, exitstatus):
        """Write all of it down."""
        from recipes.storage import write_json  # noqa: PLC0415 (extra)

        values = {
            "command": self.command,
            "complete": self.complete,
            "exit_status": int(exitstatus),
            "seconds": round(time.monotonic() - self.start),
            "rooms": {name: dict(tally) for name, tally in sorted(self.rooms.items())},
            "errors": [self.errors[key] for key in sorted(self.errors)],
            "provenance": self.provenance,
        }
        write_json(self.path, values)


def _share(record):
    """Of what is allowed."""
    return record["error"] / record["bound"]
