"""Shared by all benchmarks: sizes on command lines, processes, clocks, peak memory, JSON."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import tyro

from recipes.provenance import provenance
from recipes.records import to_json
from recipes.storage import write_json

RESULTS = Path(__file__).parent / "results"


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""The default: a GPU if there is one."""


def numbers_by_x(metavar: str) -> tyro.constructors.PrimitiveConstructorSpec[tuple[int, ...]]:
    """Parser of sizes such as 256x2048x1x1000 on the command line, with ``metavar`` BxDxTxK."""

    def parse(words: list[str]) -> tuple[int, ...]:
        numbers = tuple(map(int, words[0].split("x")))
        if len(numbers) != len(metavar.split("x")):
            raise ValueError(f"{words[0]!r} is no size {metavar}")
        return numbers

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda numbers: ["x".join(map(str, numbers))],
    )


def result_file(name: str) -> Path:
    """The file of a benchmark's result."""
    return RESULTS / f"{name}.json"


def write_result(path: Path, device: str, values: Mapping[str, Any]) -> None:
    """Write values with their provenance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"provenance": to_json(provenance(device)), **values})
    print(f"written to {path}")


def in_own_process(
    measure: Callable[..., dict[str, Any]], *, limit: float | None = None, **arguments: Any
) -> dict[str, Any]:
    """``measure(**arguments)`` in a fresh process, which has nothing in memory yet.

    Args:
        measure: a function of a module, with JSON values as arguments.
        limit: seconds after which the process is stopped.
        arguments: of the function.

    Returns:
        What it returned; or ``stopped``, or ``failed``, with the reason.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_to, args=(sender, measure, arguments))
    process.start()
    sender.close()
    try:
        if receiver.poll(limit):
            result: dict[str, Any] = receiver.recv()
            return result
        return {"stopped": f"did not finish in {limit:g} s"}
    except EOFError:
        return {"failed": "the process ended without a result"}
    finally:
        process.kill()
        process.join()


def _report_to(
    sender: Connection, measure: Callable[..., Any], arguments: Mapping[str, Any]
) -> None:
    try:
        sender.send(measure(**arguments))
    except Exception as error:  # noqa: BLE001 - reported, whatever it is; the other entries go on
        sender.send({"failed": f"{type(error).__name__}: {error}"})


def in_turn(
    calls: Mapping[str, Callable[[], object]], device: str, *, seconds: float, least: int = 11
) -> dict[str, dict[str, float]]:
    """Time all calls in turn, round after round, so that ratios hold whatever else a machine does.

    Each is made twice a round, and the second one counts: the call before it has emptied the caches
    and queues.

    Args:
        calls: by name.
        device: which is waited for.
        seconds: after which no round is begun, if there were ``least``.
        least: rounds in any case.

    Returns:
        By name, the median and the tenth and ninetieth percentile in seconds, and their number.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < least or time.perf_counter() < end:
        rounds += 1
        for name, call in calls.items():
            call()
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            times[name].append(time.perf_counter() - start)
    return {name: _spread(values) for name, values in times.items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    tenths = statistics.quantiles(values, n=10)
    return {
        "median_s": statistics.median(values),
        "low_s": tenths[0],
        "high_s": tenths[-1],
        "n": len(values),
    }


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timings(
    call: Callable[[], object],
    device: str,
    *,
    seconds: float,
    most: int,
    now: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of each call: at least one, until so many seconds are spent or ``most`` are made."""
    times: list[float] = []
    while not times or (sum(times) < seconds and len(times) < most):
        start = now()
        call()
        _wait(device)
        times.append(now() - start)
    return times


def reset_peak(device: str) -> int:
    """Bytes in use now; :func:`peak` counts from here, where the system can do that."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # resets the resident high-water mark (Linux)
    return peak(device)


def peak(device: str) -> int:
    """Most bytes in use since :func:`reset_peak`; in the life of the process outside Linux."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
