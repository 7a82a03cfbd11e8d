"""Shared by all tests."""

import gc
from collections import Counter, defaultdict
from importlib.util import find_spec
from zlib import crc32

import pytest
import torch
from hypothesis import settings

# A slow machine is no failed law. Few examples are for CI's second environment, many for releases.
for profile, examples in {"default": 30, "few": 10, "many": 300}.items():
    settings.register_profile(profile, deadline=None, max_examples=examples)
settings.load_profile("default")

collect_ignore = ["codes/two_bases.py"]  # for doctests its class would be made a second time
collect_ignore_glob = ["*/conftest.py"]  # for doctests, too: modules of one name
if find_spec("timm") is None:  # the core-only environment
    collect_ignore_glob += ["benchmarks/*"]


def pytest_addoption(parser):
    parser.addoption(
        "--cases-of-each", type=int, metavar="N", help="run N cases at most of each test function"
    )


@pytest.hookimpl(trylast=True)  # of the cases that other options leave
def pytest_collection_modifyitems(config, items):
    """With ``--cases-of-each`` the cases whose arguments the functions before have had least."""
    if not (most := config.getoption("--cases-of-each")):
        return

    def arguments(item):
        return [id(value) for value in item.callspec.params.values()] if "[" in item.name else []

    functions, kept, times = defaultdict(list), set(), Counter()
    for item in sorted(items, key=lambda item: crc32(item.nodeid.encode())):  # neighbours are alike
        functions[item.nodeid.partition("[")[0]].append(item)
    for cases in functions.values():
        for _ in cases[:most]:
            left = (case for case in cases if case not in kept)
            case = min(left, key=lambda case: sum(times[value] for value in arguments(case)))
            times.update(arguments(case))
            kept.add(case)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def pytest_collection_finish():
    """Modules and tests are not looked through at each collection of garbage, which takes 0.2 s."""
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    if hasattr(config, "workerinput"):  # xdist's workers share the cores, or wait for each other
        workers = config.workerinput["workercount"]
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """A file belongs to one process, which trains what its tests share; the cheap doctests last."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415

    class Scheduling(LoadFileScheduling):
        """All tests of kernels belong to one process, too: it compiles these."""

        def _split_scope(self, nodeid):
            kernels = "tests/kernels"
            return kernels if nodeid.startswith(kernels) else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)
