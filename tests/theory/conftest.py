"""Shared by the tests of the theory."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Small matrices gain nothing from threads that busy neighbours keep waiting.

    On one thread, CPU time is what the clock would say on one idle core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
