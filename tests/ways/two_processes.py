"""Two gloo processes, and what they find."""

import torch
from torch import distributed as dist

from tests.processes import SERVER, in_processes


def found_by(work, directory):
    """All that ``work(rank)`` yields in each of two processes.

    Args:
        work: a generator function of a module; what it yields is pickled.
        directory: an empty one, where the processes meet.
    """
    results = SERVER.Manager().Queue()
    in_processes(_process, work, directory, results)
    found = []
    while not results.empty():
        found.append(results.get())
    return found


def _process(rank, work, directory, results):
    torch.set_num_threads(1)
    store = f"file://{directory}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for result in work(rank):
        results.put(result)
    dist.barrier()
    dist.destroy_process_group()
