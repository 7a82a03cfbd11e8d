"""Cost of a training step in the head: forward, loss, backward and optimiser step.

The step begins with a batch of features that want a gradient, and ends with that gradient and
the head's parameters updated. All ways of one size are timed in turn in the same process, round
after round, so that ratios hold whatever else the machine does; medians over the rounds, and the
tenth and ninetieth percentile. Peak memory is measured in a process of its own each.

- copy:       the features are copied once: they must be read, and a gradient as large written.
- ready:      F.cross_entropy of logits that are there already, forward and backward.
- linear:     nn.Linear, F.cross_entropy and AdamW as most code has them. Several tasks have a
              ModuleDict of them.
- linear-fused-adamw: the same with AdamW(fused=True).
- linear-joined:      all tasks in one nn.Linear and one F.cross_entropy, AdamW(fused=True).
- linear-chunked:     torch.nn.functional.linear_cross_entropy with its default chunks, of up to two
              tasks in turn, and AdamW(fused=True); where torch has it (2.13 and later).
- dense:      a fixed head with a stored matrix (orientation "random:0") and F.cross_entropy.
- tiled, hadamard, canonical:        fixed heads by orientation, and F.cross_entropy.
- tiled-fused, hadamard-fused, canonical-fused:  the same with losses.CompoundCrossEntropy.
- tiled-eager: tiled-fused without the compiled kernel of etf_heads, where it is there otherwise.
- liger, cce: Liger's fused linear cross-entropy and cut-cross-entropy, each with AdamW, where
              they are installed and the device is a GPU.

- NAME-compiled: the loss under torch.compile, at two sizes.

Memory is measured where a learned head has a million weights or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
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
from benchmarks.linear import (
    RIVALS,
    LinearLoss,
    Step,
    has_chunked_loss,
    linear_loss,
    rivals_for,
    training_step,
)
from etf_heads import CompoundETFHead, kernels
from etf_heads.losses import CompoundCrossEntropy

ORIENTATIONS = {
    "tiled": "tiled",
    "hadamard": "hadamard",
    "canonical": "canonical",
    "dense": "random:0",
}
EAGER = "tiled-eager"
FUSED = ("tiled-fused", "hadamard-fused", "canonical-fused")
FLOORS = ("copy", "ready")
LEARNED = ("linear", "linear-fused-adamw", "linear-joined", "linear-chunked")
COMPILED = ("linear", "tiled", "tiled-fused")
COMPILED_SIZES = ((256, 512, 1, 100), (256, 2048, 1, 1000))
LARGE = 1_000_000  # weights of a learned head from which on memory is of interest

Size = Annotated[tuple[int, ...], numbers_by_x("BxDxTxK")]
SIZES = (
    # batch, d, tasks x classes: one task
    (256, 512, 1, 10),
    (256, 512, 1, 100),
    (64, 2048, 1, 1000),
    (256, 2048, 1, 1000),
    (1024, 2048, 1, 1000),
    (256, 2048, 1, 2000),
    # several
    (256, 512, 2, 10),
    (256, 512, 10, 2),
    (256, 512, 40, 2),
    (256, 2048, 100, 20),
)
ON_A_GPU = ((4096, 2048, 1, 1000), (4096, 4096, 1, 4096), (16384, 768, 1, 768))


def make_step(method: str, size: Sequence[int], device: str) -> Step:
    """A training step of one way, with its head, optimiser and batch in memory."""
    batch, dim, tasks, classes = size
    name = method.removesuffix("-compiled")
    features = torch.randn(batch, dim, device=device, requires_grad=True)
    labels = torch.randint(classes, (batch, tasks), device=device)
    if name == "copy":
        target = torch.empty_like(features)
        return lambda: target.copy_(features.detach())
    if name == "ready":
        features = torch.randn(batch, tasks * classes, device=device, requires_grad=True)
    loss, parameters = _loss(name, (dim, tasks, classes), labels, device)
    if method.endswith("-compiled"):
        loss = torch.compile(loss)
    return training_step(features, partial(loss, features), parameters, fused=name in LEARNED[1:])


def _loss(
    name: str, size: Sequence[int], labels: Tensor, device: str
) -> tuple[Callable[[Tensor], Tensor], list[nn.Parameter]]:
    """The loss as a function of features, and what the optimiser updates."""
    dim, tasks, classes = size
    if name == "ready":
        return partial(_ready, labels=labels, classes=classes), []
    if name == "linear-joined":
        linear = nn.Linear(dim, tasks * classes, device=device)
        return partial(_joined, linear, labels, classes), list(linear.parameters())
    if name in LEARNED or name in RIVALS:
        bias = name in LEARNED
        linears = [nn.Linear(dim, classes, bias=bias, device=device) for _ in range(tasks)]
        parameters = [parameter for linear in linears for parameter in linear.parameters()]
        return partial(_separate, linear_loss(name), linears, labels.unbind(1)), parameters
    orientation = ORIENTATIONS[name.removesuffix("-fused").removesuffix("-eager")]
    sizes = classes if tasks == 1 else [classes] * tasks
    head = CompoundETFHead(dim, sizes, orientation=orientation, device=device)
    criterion = CompoundCrossEntropy()
    if name == EAGER:
        return partial(_eager, criterion, head, labels), []
    if name in FUSED:
        return lambda features: criterion(features, head, labels), []
    return partial(_fixed, head, labels.unbind(1)), []


def _ready(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    return F.cross_entropy(logits.view(-1, classes), labels.view(-1))


def _separate(
    loss: LinearLoss, linears: list[nn.Linear], columns: Sequence[Tensor], features: Tensor
) -> Tensor:
    return _sum(
        loss(features, head.weight, y, head.bias) for head, y in zip(linears, columns, strict=True)
    )


def _joined(linear: nn.Linear, labels: Tensor, classes: int, features: Tensor) -> Tensor:
    tasks = labels.shape[1]
    return _ready(linear(features), labels, classes) * tasks


def _fixed(head: CompoundETFHead, columns: Sequence[Tensor], features: Tensor) -> Tensor:
    logits = head(features) if len(columns) > 1 else [head(features)]
    return _sum(F.cross_entropy(z, y) for z, y in zip(logits, columns, strict=True))


def _eager(
    criterion: CompoundCrossEntropy, head: CompoundETFHead, labels: Tensor, features: Tensor
) -> Tensor:
    kernels.enable(False)
    loss = criterion(features, head, labels)
    kernels.enable(True)
    return loss


def _sum(losses: Any) -> Tensor:
    first, *others = losses
    return torch.stack([first, *others]).sum() if others else first


def methods_for(size: Sequence[int], device: str) -> list[str]:
    """The ways that this size and this machine allow."""
    learned = list(LEARNED)
    if size[2] == 1:
        learned.remove("linear-joined")  # the same as linear-fused-adamw
    # Of many small tasks in turn it takes hundreds of times as long as nn.Linear: nobody's choice.
    if size[2] > 2 or not has_chunked_loss():
        learned.remove("linear-chunked")
    methods = [*FLOORS, *learned, *ORIENTATIONS, *FUSED]
    if kernels.is_enabled():
        methods.append(EAGER)
    if size[2] == 1:
        methods += rivals_for(device)
    if tuple(size) in COMPILED_SIZES:
        methods += [f"{name}-compiled" for name in COMPILED]
    return methods


def measure_times(
    size: Sequence[int], methods: Sequence[str], device: str, seconds: float
) -> dict[str, Any]:
    """Seconds a step of each way, all in turn, round after round."""
    steps = {method: make_step(method, size, device) for method in methods}
    for step in steps.values():
        for _ in range(3):  # what is set up once
            step()
    return in_turn(steps, device, seconds=seconds)


def main(
    *,
    sizes: tuple[Size, ...] = (),
    seconds: float = 10,
    device: str = DEVICE,
    output: Path = RESULTS / "heads.json",
) -> None:
    """Measure all ways, and write it.

    Args:
        sizes: batch, features, tasks and classes of each; those of the module by default.
        seconds: time for each size.
        device: where to measure: cpu, cuda, ...
        output: JSON file to write.
    """
    on_a_gpu = ON_A_GPU if torch.device(device).type == "cuda" else ()
    entries = []
    for size in sizes or SIZES + on_a_gpu:
        methods = methods_for(size, device)
        times = in_own_process(
            measure_times, size=size, methods=methods, device=device, seconds=seconds
        )
        named = dict(zip(("batch", "dim", "tasks", "classes"), size, strict=True))
        for method in methods:
            timed = times.get(method, times)
            entries.append({**named, "method": method, **timed})
            if size[1] * size[2] * size[3] >= LARGE:
                entries[-1]["memory"] = in_own_process(
                    step_memory,
                    make_step=make_step,
                    method=method,
                    size=size,
                    tiny=(2, max(4, 2 * size[2]), size[2], 2),
                    steps=3,
                    device=device,
                )
            print(_line(entries[-1]), flush=True)
    write_result(output, device, {"steps": entries})


def _line(entry: dict[str, Any]) -> str:
    size = f"{entry['batch']} x {entry['dim']}, {entry['tasks']} x {entry['classes']}"
    time_text = f"{1e3 * entry['median_s']:.3f} ms" if "median_s" in entry else str(entry)
    memory = f"{entry['memory'].get('bytes', math.nan) / 1e6:8.1f} MB" if "memory" in entry else ""
    return f"{size:24} {entry['method']:20} {time_text:>12} {memory}"


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.heads", description=__doc__)
