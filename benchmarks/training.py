"""Training speed of the recipes, and their utilisation of the machine.

All ways of one size are timed in one process, in turn, round after round; medians over the rounds,
and the tenth and ninetieth percentile. A round is a number of steps, the last of them waited for.

- learned, compound: a whole training step of recipes/engine.py with that head: loader,
           augmentation, network, head and loss, backward, AdamW.
- learned-compiled, compound-compiled: the same with --compile.
- input:   loader and augmentation alone. Its share of a step is that of the times: on a GPU, whose
           work is queued, the two may overlap.
- workers: the step of "learned", fed by a torch.utils.data.DataLoader whose worker processes
           transform image by image with torchvision (random crop with padding, flip, to tensor,
           normalise). What they have prepared beforehand is taken before the clock starts.
- product: a large matrix product in the same precision: the peak that a step is held against.

FLOPs of a step are those of matrix products and convolutions, forward and backward, two for a
multiply and add, as torch.utils.flop_counter counts them; normalisation, activations, losses and
the optimiser count nothing. Structured heads are no matrix products, so they count little. (With
precision "no" on a GPU, convolutions may use TF32, which the product does not.)

The images are random uint8 tensors made here: shapes matter, contents do not. They are of three
channels, as in CIFAR-100. It runs where the recipes run: on a GPU if there is one, and on the CPU
with ACCELERATE_USE_CPU=true.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import RESULTS, in_own_process, in_turn, write_result
from recipes.data.images import ImageData, ImageSet
from recipes.training.building import build_network
from recipes.training.engine import Run
from recipes.training.network import Network
from recipes.training.presets import PRESETS
from recipes.training.processes import make_accelerator, process_state
from recipes.training.settings import RunConfig

HEADS = ("learned", "compound")
SHIFT = 4  # pixels, as for CIFAR-100
Precision = Literal["no", "bf16", "fp16"]
PREFETCHED = 2  # batches a worker, DataLoader's default


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        backbone: as in the recipes.
        width: of the backbone.
        batches: batch sizes.
        classes: class counts; all batch sizes are measured with each.
        image_size: in pixels.
        precision: of the mixed precision training, as in the recipes.
        compiled: measure --compile too.
        images: in an epoch.
        workers: processes that transform images.
        steps: in a round, at least.
        product: rows of the matrix product.
        seconds: for each size.
        output: JSON file to write.
    """

    backbone: str
    width: int
    batches: tuple[int, ...]
    precision: Precision
    images: int
    steps: int
    product: int
    classes: tuple[int, ...] = (100, 1000)
    image_size: int = 32
    compiled: bool = True
    workers: int = os.cpu_count() or 1
    seconds: float = 30
    output: Path = RESULTS / "training.json"


DEFAULTS = {
    "cuda": Options("resnet18", 64, (128, 1024), "bf16", images=50_000, steps=20, product=8192),
    "cpu": Options("cnn", 16, (64,), "no", images=5_000, steps=4, product=1024),
}
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Batch = tuple[Tensor, Tensor]


def measure_size(
    *,
    backbone: str,
    width: int,
    batch: int,
    classes: int,
    image_size: int,
    precision: Precision,
    compiled: bool,
    images: int,
    workers: int,
    steps: int,
    product: int,
    seconds: float,
) -> dict[str, Any]:
    """Times, FLOPs and shares of all ways of one size, here and now; ``product`` is its rows."""
    config = replace(
        PRESETS["cifar100"][1],
        backbone=backbone,
        width=width,
        features=max(8 * width, classes),  # those of a ResNet, and enough for a simplex ETF
        batch_size=batch,
        mixed_precision=precision,
    )
    accelerator = make_accelerator(config)
    device = accelerator.device
    data = random_images(images, image_size, classes)
    resident = data.to(device)
    runs = {
        head + suffix: Run(replace(config, head=head, compile=bool(suffix)), accelerator, resident)
        for suffix in (("", "-compiled") if compiled else ("",))
        for head in HEADS
    }
    calls: dict[str, Callable[[], object]] = {way: recipe_step(run) for way, run in runs.items()}
    plain = Run(replace(config, head="learned"), accelerator, resident, _standardised)
    calls["input"] = partial(next, _endless(plain.batches))
    calls["workers"] = worker_step(plain, data.train, workers)
    matrix = torch.randn(product, product, device=device, dtype=DTYPES[precision])
    calls["product"] = partial(torch.mm, matrix, matrix)

    flops = {head: count_flops(calls[head]) for head in HEADS} | {"product": 2 * product**3}
    for call in calls.values():
        for _ in range(3):  # what is set up, or compiled, once
            call()
    # A round's first call takes from the workers' queue what waits there.
    repeats = max(steps, PREFETCHED * workers)
    repeated = {way: partial(_repeat, call, repeats) for way, call in calls.items()}
    times = in_turn(repeated, str(device), seconds=seconds)
    return {"steps_a_round": repeats, "ways": _derived(times, flops, batch, repeats)}


def random_images(images: int, size: int, classes: int) -> ImageData:
    """Random images (N, 3, size, size) with random labels."""
    pixels = torch.randint(256, (images, 3, size, size), dtype=torch.uint8)
    split = ImageSet(pixels, torch.randint(classes, (images, 1)))
    return ImageData({"class": classes}, split, split, shift=SHIFT, flip=True)


def recipe_step(run: Run) -> Callable[[], None]:
    """A step of a recipe, with the loading of its batch."""
    batches = _endless(run.batches)
    return lambda: run.step(*next(batches))


def worker_step(run: Run, data: ImageSet, workers: int) -> Callable[[], None]:
    """The same step with images that worker processes have transformed one by one."""
    device = run.accelerator.device
    loader = DataLoader(
        OneByOne(data),
        batch_size=run.config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        prefetch_factor=PREFETCHED,
        pin_memory=device.type == "cuda",
    )
    batches = _endless(lambda _: loader)

    def step() -> None:
        images, labels = next(batches)
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        run.step(images, labels.to(device, non_blocking=True))

    return step


class OneByOne(Dataset[Batch]):
    """Images as torchvision's CIFAR100 with the usual transforms gives them: float (3, H, W)."""

    def __init__(self, data: ImageSet) -> None:
        from torchvision import transforms  # noqa: PLC0415 (seconds to import)

        self.pixels = data.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(data.images.shape[2:], padding=SHIFT),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.25,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        from PIL import Image  # noqa: PLC0415 (an extra)

        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def _standardised(config: RunConfig, data: ImageData) -> Network:
    network = build_network(config, data)
    network.standardise = nn.Identity()  # the workers do it
    return network


def count_flops(step: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions of a step, none of which may be compiled."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def _endless(epoch: Callable[[int], Iterable[Batch]]) -> Iterator[Batch]:
    for number in itertools.count():
        yield from epoch(number)


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def _derived(
    times: dict[str, dict[str, float]], flops: dict[str, int], batch: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Seconds a step by way, and what follows from them."""
    ways = {
        way: {name: value if name == "n" else value / repeats for name, value in spread.items()}
        for way, spread in times.items()
    }
    peak = flops["product"] / ways["product"]["median_s"]
    ways["product"]["flops_per_second"] = peak
    for way, found in ways.items():
        if way == "product":
            continue
        found["images_per_second"] = batch / found["median_s"]
        head = way.removesuffix("-compiled")
        if head in HEADS:
            found["flops"] = flops[head]
            found["share_of_peak"] = flops[head] / found["median_s"] / peak
            found["input_share"] = ways["input"]["median_s"] / found["median_s"]
    return ways


def main(options: Options | None = None) -> None:
    """Measure, and write it; by default what suits the device at hand."""
    options = options or defaults()
    shared = asdict(options)
    names = ("batches", "classes", "seconds", "output")
    batches, many, seconds, output = (shared.pop(name) for name in names)
    sizes = []
    for classes, batch in itertools.product(many, batches):
        size = {**shared, "classes": classes, "batch": batch}
        sizes.append(size | in_own_process(measure_size, **size, seconds=seconds))
        print(_lines(sizes[-1]), flush=True)
    write_result(output, str(process_state().device), {"sizes": sizes})


def defaults() -> Options:
    """Options for the device at hand."""
    return DEFAULTS["cuda" if process_state().device.type == "cuda" else "cpu"]


def _lines(size: dict[str, Any]) -> str:
    what = (
        f"{size['backbone']}, width {size['width']}, K = {size['classes']}, batch {size['batch']}"
    )
    if "ways" not in size:
        return f"{what}: {size}"
    lines = [f"{what}:"]
    for way, found in size["ways"].items():
        if "images_per_second" in found:
            share = f"{found['share_of_peak']:7.1%} of peak" if "share_of_peak" in found else ""
            lines.append(f"  {way:20} {found['images_per_second']:12,.0f} images/s {share}")
    return "\n".join(lines)


if __name__ == "__main__":
    prog = "python -m benchmarks.training"
    main(tyro.cli(Options, default=defaults(), prog=prog, description=__doc__))
