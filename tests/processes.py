"""Processes forked from one server that has imported what they need: one starts in no time.

There is one such server in a process; it starts with the first process, and imports what the last
module that was collected asks for.
"""

import multiprocessing
import os

from torch.multiprocessing import start_processes

os.environ["OMP_NUM_THREADS"] = "1"  # of what is started from here
SERVER = multiprocessing.get_context("forkserver")
MODULES = ["torch", "torchmetrics", "sklearn.datasets", "etf_heads"]
SERVER.set_forkserver_preload(MODULES)


def in_processes(work, *arguments, size=2):
    """Call ``work(rank, *arguments)`` in so many processes; an error in one of them is raised."""
    start_processes(work, arguments, nprocs=size, start_method="forkserver")
