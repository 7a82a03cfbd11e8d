"""Several runs at once on one machine: small networks leave most of a GPU idle."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

import torch
from accelerate.utils import DistributedType, tqdm

from recipes.training.processes import process_state

C = TypeVar("C")
"""A configuration."""

T = TypeVar("T")
"""The result of a function of a configuration; a module-level function, which processes find."""


def train_all(runs: Sequence[tuple[Callable[[C], T], C]], jobs: int = 1) -> list[T]:
    """Train runs, several at once, each in a process of its own.

    Args:
        runs: what to train, and how.
        jobs: how many at once; 1 trains one after the other, in this process.

    Returns:
        Their results, in the same order.

    Raises:
        ValueError: if jobs is below 1, or the processes of a launch share each run already.
        Exception: what the first run that failed raised; runs that have begun end before.
    """
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: at least 1 is needed")
    if jobs == 1:
        return [train(config) for train, config in runs]
    if process_state().distributed_type != DistributedType.NO:
        raise ValueError(
            f"jobs={jobs}: these processes share every run already; start the program with python, "
            "without a launcher, to train several runs at once"
        )
    os.environ["TQDM_DISABLE"] = "1"  # in the processes to come: their bars would overwrite others
    with ProcessPoolExecutor(
        jobs,
        get_context("spawn"),  # a forked process cannot use the GPU
        initializer=torch.set_num_threads,
        initargs=(max(1, torch.get_num_threads() // jobs),),
    ) as pool:
        futures = [pool.submit(train, config) for train, config in runs]
        try:
            for future in tqdm(
                as_completed(futures), total=len(runs), desc=f"runs, {jobs} at once"
            ):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            del os.environ["TQDM_DISABLE"]
    return [future.result() for future in futures]
