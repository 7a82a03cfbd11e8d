"""Shared by all tests."""

import gc
from importlib.util import find_spec

import pytest
import torch
from hypothesis import settings

settings.register_profile("etf_heads", deadline=None)  # a slow machine is no failed law
settings.register_profile("few", deadline=None, max_examples=10)  # a second environment, in CI
settings.load_profile("etf_heads")

collect_ignore = ["codes/two_bases.py"]  # for doctests its class would be made a second time
if find_spec("timm") is None:  # the core-only environment
    collect_ignore_glob = ["benchmarks/*"]


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

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)
