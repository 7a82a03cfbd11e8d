"""Shared by the tests of the theory."""

from contextlib import nullcontext

import pytest
import torch

try:
    from threadpoolctl import threadpool_limits  # comes with scikit-learn, of the recipes extra
except ImportError:
    threadpool_limits = nullcontext


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small matrices gain nothing from threads that busy neighbours keep waiting.

    On one thread, CPU time is what the clock would say on one idle core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):  # SciPy's BLAS
        yield
    torch.set_num_threads(threads)
