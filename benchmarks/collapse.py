"""Throughput and peak memory of measuring collapse: one pass, and the textbook ways.

Every measurement runs in a process of its own, on random features that are already in memory, in
batches, and ends with the statistics that NC1 needs: class means and the within-class scatter.

- read:    every feature is read once (a sum): what no way of measuring can beat.
- trace:   SingleTaskCollapse(covariance="trace"): all measures but nc1.
- full:    SingleTaskCollapse(covariance="full"), products in float32.
- double:  the same with precision="float64".
- gather:  two passes, float32, no loop over classes: sums as a product with one-hot labels, scatter
           as one product a batch, as in the package neural-collapse (Wu and Papyan, 2024).
- matmul:  textbook, two passes, a loop over classes, float32; scatter as zᵀz of each class.
- float64: the same in float64, the precision of double.
- outer:   matmul with the sum of outer products z zᵀ of single samples, as in the code published
           with Papyan, Han and Donoho (2020).

The two-pass ways would in practice also run the network twice, which is not counted here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from benchmarks.harness import (
    DEVICE,
    RESULTS,
    in_own_process,
    peak,
    reset_peak,
    timings,
    write_result,
)
from etf_heads.collapse import SingleTaskCollapse

SIZES = ((10, 512), (100, 512), (1000, 2048))
METHODS = ("read", "trace", "full", "double", "gather", "matmul", "float64", "outer")
SLOW = ("matmul", "float64", "outer")
POOL = 4096  # distinct samples in memory, read over and over

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def read(batches: Batches, classes: int, dim: int, device: str) -> None:
    """Touch every feature once."""
    total = torch.zeros(dim, device=device)
    for features, _ in batches():
        total += features.sum(0)
    float(total[0] + classes)


def one_pass(
    covariance: Literal["full", "trace"], precision: Literal["features", "float64"] = "features"
) -> Callable[[Batches, int, int, str], None]:
    """This package."""

    def run(batches: Batches, classes: int, dim: int, device: str) -> None:
        measure = SingleTaskCollapse(dim, classes, covariance=covariance, precision=precision)
        measure.to(device)
        for features, labels in batches():
            measure.update(features, labels)
        float(measure.class_statistics().traces.sum())

    return run


def two_passes(
    scatter_of: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32
) -> Callable[[Batches, int, int, str], None]:
    """Class means in a first pass, scatter about them in a second, a loop over classes in both."""

    def run(batches: Batches, classes: int, dim: int, device: str) -> None:
        sums, counts = torch.zeros(classes, dim, device=device, dtype=dtype), [0] * classes
        for features, labels in batches():
            for k in range(classes):
                rows = (labels == k).nonzero(as_tuple=True)[0]
                if len(rows):
                    sums[k] += features[rows].to(dtype).sum(0)
                    counts[k] += len(rows)
        means = sums / torch.tensor(counts, device=device).clamp_min(1)[:, None]
        scatter = torch.zeros(dim, dim, device=device, dtype=dtype)
        for features, labels in batches():
            for k in range(classes):
                rows = (labels == k).nonzero(as_tuple=True)[0]
                if len(rows):
                    scatter += scatter_of(features[rows].to(dtype) - means[k])
        float(scatter.trace())

    return run


def gather(batches: Batches, classes: int, dim: int, device: str) -> None:
    """Two passes in float32, with each sample's class mean gathered."""
    labels_of = torch.arange(classes, device=device)
    sums, counts = torch.zeros(classes, dim, device=device), torch.zeros(classes, device=device)
    for features, labels in batches():
        one_hot = (labels == labels_of[:, None]).float()
        sums += one_hot @ features
        counts += one_hot.sum(1)
    means = sums / counts.clamp_min(1)[:, None]
    scatter = torch.zeros(dim, dim, device=device)
    for features, labels in batches():
        residuals = features - means[labels]
        scatter += residuals.T @ residuals
    float(scatter.trace())


RUNS: dict[str, Callable[[Batches, int, int, str], None]] = {
    "read": read,
    "trace": one_pass("trace"),
    "full": one_pass("full"),
    "double": one_pass("full", "float64"),
    "gather": gather,
    "matmul": two_passes(lambda z: z.T @ z),
    "float64": two_passes(lambda z: z.T @ z, torch.float64),
    "outer": two_passes(lambda z: (z.unsqueeze(-1) @ z.unsqueeze(1)).sum(0)),
}


def measure_one(
    method: str,
    *,
    classes: int,
    features: int,
    samples: int,
    seconds: float,
    batch: int,
    device: str,
    clock: str,
    threads: int,
) -> dict[str, Any]:
    """Time one method here and now: passes over ``samples`` until ``seconds`` are spent."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    inputs = torch.randn(POOL, features, device=device)
    labels = torch.randint(classes, (POOL,), device=device)

    def batches(total: int = samples) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, total, batch):
            rows = slice(start % POOL, start % POOL + batch)
            yield inputs[rows], labels[rows]

    for dtype in (torch.float32, torch.float64):
        small = torch.ones(256, 256, dtype=dtype, device=device)
        float((small @ small).sum())  # the matrix library takes its own memory at its first use
    before = reset_peak(device)
    RUNS[method](lambda: batches(batch), classes, features, device)  # warm up
    times = timings(
        lambda: RUNS[method](batches, classes, features, device),
        device,
        seconds=seconds,
        most=5,
        now=CLOCKS[clock],
    )
    return {
        "seconds": times,
        "samples_per_second": samples / statistics.median(times),
        "peak_memory_bytes": peak(device) - before,
    }


def main(
    *,
    batch: int = 256,
    samples: int = 4 * POOL,
    seconds: float = 5.0,
    clock: Literal["wall", "cpu"] = "wall",
    threads: int = 0,
    device: str = DEVICE,
    output: Path = RESULTS / "collapse.json",
) -> None:
    """Measure everything, print a table, write the JSON.

    Args:
        batch: samples a batch.
        samples: samples a run, an eighth for the slow ones (a loop over classes, outer products);
            peak memory is also taken at four times as many.
        seconds: repeat a run up to five times or until so much time is spent; the median counts.
        clock: wall: seconds that pass; cpu: those that the process computes, which on a machine
            shared with others is the steadier number (use it with --threads 1).
        threads: CPU threads of PyTorch; 0 for its own choice.
        device: where to measure: cpu, cuda, ...
        output: JSON file to write.
    """
    setting: dict[str, Any] = {
        "batch": batch,
        "device": device,
        "clock": clock,
        "threads": threads or torch.get_num_threads(),
    }

    def measure(samples: int, seconds: float, **what: Any) -> dict[str, Any]:
        what["samples"] = samples
        return what | in_own_process(measure_one, seconds=seconds, **what, **setting)

    results = []
    print(f"{'K':>5} {'d':>5} {'method':>7} {'samples/s':>12} {'peak MiB':>9} {'at 4x':>7}")
    for classes, dim in SIZES:
        for method in METHODS:
            # A sample costs the slow ones the same in every batch; they would take minutes.
            count = samples // 8 if method in SLOW else samples
            what = {"method": method, "classes": classes, "features": dim}
            result = measure(count, seconds, **what)
            if method in ("trace", "full", "double"):
                longer = measure(4 * samples, 0.001, **what)
                result["peak_memory_bytes_at_4x_samples"] = longer.get("peak_memory_bytes")
            results.append(result)
            print(row(result), flush=True)
    ratios = {
        f"K={classes}, d={dim}": {
            f"full over {other}": speed(results, classes, "full") / speed(results, classes, other)
            for other in ("gather", "matmul", "float64", "outer", "read")
        }
        for classes, dim in SIZES
    }
    for size, ratio in ratios.items():
        print(size, {name: round(value, 4) for name, value in ratio.items()})
    report = {
        "question": "What does measuring collapse cost?",
        **{name: setting[name] for name in ("batch", "clock", "threads")},
        "results": results,
        "throughput_ratios": ratios,
    }
    write_result(output, device, report)


def speed(results: list[dict[str, Any]], classes: int, method: str) -> float:
    """Samples per second of one measurement; nan if it failed."""
    for result in results:
        if (result["classes"], result["method"]) == (classes, method):
            return float(result.get("samples_per_second", "nan"))
    raise KeyError((classes, method))


def row(result: dict[str, Any]) -> str:
    """A line of the table."""
    what = f"{result['classes']:5} {result['features']:5} {result['method']:>7}"
    if "failed" in result:
        return f"{what} {result['failed']}"
    mib = result["peak_memory_bytes"] / 2**20
    later = result.get("peak_memory_bytes_at_4x_samples")
    grown = f"{later / 2**20:7.0f}" if later is not None else ""
    return f"{what} {result['samples_per_second']:12.0f} {mib:9.0f} {grown}"


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.collapse", description=__doc__)
