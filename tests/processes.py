"""Processes forked from one server that has imported what they need: one starts in no time.

There is one such server in a process; it starts with the first process, and imports what the last
module that was collected asks for.
"""

import multiprocessing
import os
from datetime import timedelta
from pathlib import Path

import safetensors.torch
from torch import distributed
from torch.multiprocessing import start_processes

os.environ["OMP_NUM_THREADS"] = "1"  # of what is started from here
SERVER = multiprocessing.get_context("forkserver")
MODULES = ["torch", "torchmetrics", "sklearn.datasets", "etf_heads"]
SERVER.set_forkserver_preload(MODULES)


def keep(rank, folder, observations, refusals):
    """One of two gloo processes: ``observations(rank, 2)`` and the lines ``refusals(rank)``, kept.

    In files of the folder, called as the rank.
    """
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=30),  # one that waits for another fails
    )
    safetensors.torch.save_file(observations(rank, 2), f"{folder}/{rank}")
    (Path(folder) / f"{rank}.txt").write_text("\n".join(refusals(rank)))
    distributed.barrier()
    distributed.destroy_process_group()


def in_processes(work, *arguments, size=2):
    """Call ``work(rank, *arguments)`` in so many processes; an error in one of them is raised."""
    start_processes(work, arguments, nprocs=size, start_method="forkserver")
