import os

# Before torch is imported by the processes that these tests start; here it is set below.
os.environ["OMP_NUM_THREADS"] = "1"

import gc
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

if find_spec("accelerate") is None:  # the core-only environment
    collect_ignore_glob = ["*"]


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """Settings of a run with mid-epoch checkpoints that ran through."""
    from recipe_runs import TINY, run  # noqa: PLC0415  (not there in the core-only environment)

    config = replace(TINY, backbone="cnn-dropout", output=tmp_path_factory.mktemp("straight"))
    assert run(config) == [0]
    return config


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect():
    """Each training collects garbage: it need not look through what earlier tests have loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order, and no fight over cores with the processes that tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
