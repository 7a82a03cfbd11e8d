"""Cost of a training step in a head of far more classes than features.

The step begins with a batch of features that want a gradient, and ends with that gradient and the
head's parameters updated. All ways of one size are timed in turn in the same process, round after
round, so that ratios hold whatever else the machine does; medians over the rounds, and the tenth
and ninetieth percentile. Peak memory is measured in a process of its own each. A way that would
not fit into memory says what it would need.

- linear:          nn.Linear, F.cross_entropy and AdamW as most code has them.
- linear-fused:    the same with AdamW(fused=True).
- linear-chunked:  torch.nn.functional.linear_cross_entropy with its default chunks, and
                   AdamW(fused=True); where torch has it (2.13 and later).
- liger, cce:      Liger's fused linear cross-entropy and cut-cross-entropy, each with AdamW, where
                   they are installed and the device is a GPU.
- streamed:        SphericalCodeHead and losses.CompoundCrossEntropy: exact, without logits.
- ntce:            SphericalCodeHead and losses.NTCE, which contrasts with the batch only.

Then inference: the best class of each feature.

- dense-topk:      one product with a dense matrix of all class vectors, and torch.topk.
- topk:            SphericalCodeHead.topk of features at a cosine of 0.5 to their class vector,
                   where a few transforms prove which class is best.
- topk-exact:      the same of random features, where all transforms are needed.

The floor of the exact loss is counted, not measured: log2(d) additions a score for the transform of
each basis, the same for its transpose, and one exponential for two scores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import (
    DEVICE,
    RESULTS,
    in_own_process,
    in_turn,
    numbers_by_x,
    step_memory,
    write_result,
)
from benchmarks.linear import Step, has_chunked_loss, linear_loss, rivals_for, training_step
from etf_heads import SphericalCodeHead
from etf_heads.losses import NTCE, CompoundCrossEntropy
from recipes.provenance import provenance
from recipes.storage import read_json

LEARNED = ("linear", "linear-fused", "linear-chunked")
FIXED = ("streamed", "ntce")
INFERENCE = ("dense-topk", "topk", "topk-exact")
COSINE = 0.5
SPARE = 0.8  # share of the memory that a way may take

Size = Annotated[tuple[int, ...], numbers_by_x("BxDxK")]
SIZES = ((256, 256, 10_000), (256, 256, 66_048), (256, 1024, 100_000), (256, 1024, 1_050_624))


def make_step(method: str, size: Sequence[int], device: str) -> Step:
    """A training step, or an answer, of one way, with all that it needs in memory."""
    batch, dim, classes = size
    features = torch.randn(batch, dim, device=device)
    labels = torch.randint(classes, (batch,), device=device)
    if method in INFERENCE:
        return _answer(method, features, labels, classes)
    features.requires_grad_()
    loss, parameters = _loss(method, features, labels, classes)
    return training_step(features, loss, parameters, fused=method != "linear")


def _loss(
    method: str, features: Tensor, labels: Tensor, classes: int
) -> tuple[Callable[[], Tensor], list[nn.Parameter]]:
    dim, device = features.shape[1], features.device
    if method in FIXED:
        head = SphericalCodeHead(dim, classes, device=device)
        criterion = NTCE() if method == "ntce" else CompoundCrossEntropy()
        return lambda: criterion(features, head, labels), []
    linear, loss = nn.Linear(dim, classes, bias=False, device=device), linear_loss(method)
    return lambda: loss(features, linear.weight, labels, None), list(linear.parameters())


@torch.no_grad()
def _answer(method: str, features: Tensor, labels: Tensor, classes: int) -> Step:
    if method == "dense-topk":
        weight = torch.randn(classes, features.shape[1], device=features.device)
        return lambda: (features @ weight.T).topk(1)
    head = SphericalCodeHead(features.shape[1], classes, device=features.device)
    if method == "topk":
        rows = F.normalize(head.rows(labels))
        across = features - (features * rows).sum(1, keepdim=True) * rows
        features = COSINE * rows + math.sqrt(1 - COSINE**2) * F.normalize(across)
    return lambda: head.topk(features, 1)


def methods_for(device: str) -> list[str]:
    """The ways that this machine allows."""
    learned = [m for m in LEARNED if m != "linear-chunked" or has_chunked_loss()]
    return [*learned, *rivals_for(device), *FIXED, *INFERENCE]


def bytes_needed(method: str, size: Sequence[int]) -> int:
    """Bytes of a way's matrices: weight, gradient and two moments, and logits where it makes any.

    Of fixed heads, which have none, 0.
    """
    batch, dim, classes = size
    if method == "dense-topk":
        return 4 * classes * (dim + batch)
    if method in (*FIXED, *INFERENCE):
        return 0
    logits = 2 * batch if method in ("linear", "linear-fused") else 0
    return 4 * classes * (4 * dim + logits)


def floor_of(size: Sequence[int]) -> dict[str, int]:
    """Least work of the exact loss and its gradient with both ends of all lines."""
    batch, dim, classes = size
    scores = batch * -(-classes // 2)
    return {
        "additions": 2 * scores * int(math.log2(dim)),
        "exponentials": scores,
        "bytes": 4 * 2 * batch * dim + -(-classes // 2),
    }


def room(device: str) -> int:
    """Bytes of memory that are free."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


def measure_times(
    size: Sequence[int],
    methods: Sequence[str],
    *,
    device: str,
    seconds: float,
    least: int,
    patience: float,
) -> dict[str, Any]:
    """Seconds a step of each way, all in turn, round after round."""
    steps: dict[str, Step] = {}
    slow: dict[str, Any] = {}
    for method in methods:
        step = make_step(method, size, device)
        start = time.perf_counter()
        step()  # with what is set up once
        taken = time.perf_counter() - start
        if taken > patience:
            slow[method] = {"stopped": f"the first step took {taken:.0f} s"}
        else:
            steps[method] = step
    return slow | in_turn(steps, device, seconds=seconds, least=least)


def main(
    *,
    sizes: tuple[Size, ...] = (),
    seconds: float = 30,
    least: int = 5,
    patience: float = 15,
    device: str = DEVICE,
    output: Path = RESULTS / "many_classes.json",
    add: bool = False,
) -> None:
    """Measure all ways, and write it.

    Args:
        sizes: batch, features and classes of each; those of the module by default.
        seconds: time for each size.
        least: rounds of each size in any case.
        patience: seconds of the first step after which a way is left out.
        device: where to measure: cpu, cuda, ...
        output: JSON file to write.
        add: to what is in that file, where the same commit measured it, so that sizes may be
            measured one by one.

    Raises:
        ValueError: if what is there is of another commit or device.
    """
    entries, floors = _measured(output, device) if add else ([], [])
    for size in sizes or SIZES:
        named = dict(zip(("batch", "dim", "classes"), size, strict=True))
        floors.append({**named, **floor_of(size)})
        needed = {method: bytes_needed(method, size) for method in methods_for(device)}
        # Those that fit one by one may not fit side by side.
        free = SPARE * room(device)
        kept: list[str] = []
        for method in sorted(needed, key=lambda name: needed[name]):
            if sum(needed[name] for name in kept) + needed[method] <= free:
                kept.append(method)
        methods = [method for method in needed if method in kept]
        times = in_own_process(
            measure_times,
            size=size,
            methods=methods,
            device=device,
            seconds=seconds,
            least=least,
            patience=patience,
        )
        for method, needs in needed.items():
            entry: dict[str, Any] = {**named, "method": method, "needs_bytes": needs}
            if method in methods:
                entry |= times.get(method, times)
            else:
                entry["stopped"] = f"needs {needs / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
            if "median_s" in entry:
                entry["memory"] = in_own_process(
                    step_memory,
                    make_step=make_step,
                    method=method,
                    size=size,
                    tiny=(2, 16, 64),
                    steps=2,
                    device=device,
                )
            entries.append(entry)
            print(_line(entry), flush=True)
    write_result(output, device, {"steps": entries, "floors": floors})


def _measured(output: Path, device: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Steps and floors of an earlier run of the same code on the same device."""
    found, now = read_json(output), provenance(device)
    before = found["provenance"]
    if (before["commit"], before["device"]) != (now.commit, now.device):
        raise ValueError(
            f"{output} is of {before['commit']} on {before['device']}, this is {now.commit} on "
            f"{now.device}: measure all sizes anew"
        )
    return found["steps"], found["floors"]


def _line(entry: dict[str, Any]) -> str:
    size = f"{entry['batch']} x {entry['dim']}, K = {entry['classes']:,}"
    if "median_s" not in entry:
        return f"{size:30} {entry['method']:16} {entry.get('stopped') or entry}"
    memory = f"{entry['memory'].get('bytes', math.nan) / 2**20:9.1f} MiB"
    return f"{size:30} {entry['method']:16} {1e3 * entry['median_s']:10.2f} ms {memory}"


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.many_classes", description=__doc__)
