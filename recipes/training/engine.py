"""The training loop: one configuration in, one result out, on whatever hardware there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed, tqdm
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from recipes.data import load_data
from recipes.data.images import ImageData, train_loader
from recipes.provenance import provenance
from recipes.records import to_json
from recipes.storage import finite
from recipes.training.assignment import Assignment, align
from recipes.training.augmentation import Augmentation
from recipes.training.building import build_network
from recipes.training.checkpoint import (
    Progress,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from recipes.training.history import Epoch
from recipes.training.measure import measure
from recipes.training.network import Network
from recipes.training.optimizer import make_optimizer, optimizer_over, warm_up_then_cosine
from recipes.training.processes import (
    Stopwatch,
    all_finite,
    loader_batch,
    make_accelerator,
    on_main,
    share_buffers,
    tracker_scalars,
)
from recipes.training.result import (
    RunResult,
    class_cosines,
    counts,
    open_run_directory,
    terminal_epoch,
    write_weights,
)
from recipes.training.settings import RunConfig
from recipes.training.weighting import WEIGHTINGS

OnEpoch = Callable[[Epoch], None]
MakeNetwork = Callable[[RunConfig, ImageData], Network]


def train(
    config: RunConfig, on_epoch: OnEpoch | None = None, make_network: MakeNetwork = build_network
) -> RunResult:
    """Train one network, measure it every epoch, and write ``result.json`` and its weights.

    Every process of a launch calls this. Several runs may follow one another in a process.

    Args:
        config: the settings.
        on_epoch: called on the main process with each new record of the history.
        make_network: where the training starts from; by default the network of the settings.

    Returns:
        The result; the one on disk, if the run was finished already and is resumed.

    Raises:
        FileExistsError: if the output directory is taken and ``config.resume`` is not set.
        FloatingPointError: if the loss, or a weight, is no longer finite. That is looked at where
            the device is waited for anyway: between epochs, and before each checkpoint.
        OSError: if something cannot be written. What was written before stays as it was.
        ValueError: if the settings do not fit together, the machine, or the run to resume.
    """
    accelerator = make_accelerator(config)
    # What does not fit together fails before anything is written.
    run = Run(config, accelerator, _read(config, accelerator), make_network)
    finished = on_main(accelerator, lambda: open_run_directory(config))
    if finished is not None:
        return finished

    run.resume()
    accelerator.init_trackers("etf_heads", config=tracker_scalars(config.to_json()))
    with run.progress_bar() as bar:

        def record() -> None:
            row = run.measure()
            accelerator.log(tracker_scalars(to_json(row)), step=row.epoch)
            bar.set_postfix({task: f"{a:.2%}" for task, a in row.test.accuracy.items()})
            if on_epoch is not None and accelerator.is_main_process:
                on_epoch(row)

        if not run.progress.history:
            record()
        while run.progress.epoch < config.epochs:
            run.train_epoch(bar)
            if (
                run.progress.epoch % config.measure_every == 0
                or run.progress.epoch == config.epochs
            ):
                record()
            run.save()

    result = on_main(accelerator, run.write_result)
    for tracker in accelerator.trackers:  # end_training() would end the process group as well
        tracker.finish()
    accelerator.free_memory()
    return result


class Run:
    """Everything a run consists of, and where it stands; :func:`train` takes it to its end.

    Args:
        config: the settings.
        accelerator: as :func:`recipes.training.processes.make_accelerator` makes it of them.
        data: what to train and measure on, wherever it lies.
        make_network: where the training starts from.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        data: ImageData,
        make_network: MakeNetwork = build_network,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.progress = Progress()

        set_seed(config.seed)
        self.data = data.to(accelerator.device)
        self.network = make_network(config, self.data)
        if config.compile:
            # As in a process of its own: torch compiles a function for so many sizes and no more.
            torch.compiler.reset()
            # In place: the name of a wrapper would stand in every key of the state_dict.
            self.network.backbone.compile()
        self.augmentation = Augmentation(
            len(self.data.train),
            self.data.shift,
            flip=self.data.flip,
            seed=config.seed,
            device=accelerator.device,
        )
        loader = train_loader(
            self.data.train, loader_batch(config, accelerator, len(self.data.train))
        )
        self.parts = accelerator.gradient_accumulation_steps
        self.steps_per_epoch = math.ceil(len(loader) / self.parts)
        self.assignment = Assignment(config, self.steps_per_epoch)
        self.weighting = WEIGHTINGS[config.weighting](accelerator, self.network, self.data.tasks)
        optimizer = make_optimizer(self.network, self.weighting.parameters(), config)
        self.share = warm_up_then_cosine(config.epochs * self.steps_per_epoch)
        schedule = LambdaLR(optimizer, self.share)
        self.model, self.optimizer, self.loader, self.schedule = accelerator.prepare(
            self.network, optimizer, loader, schedule
        )

    @property
    def steps(self) -> int:
        """Optimiser steps taken so far."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    def resume(self) -> None:
        """Go back to the newest whole checkpoint, if there is one."""
        newest = on_main(self.accelerator, lambda: newest_checkpoint(self.config))
        if newest is not None:
            self.progress = load_checkpoint(self.accelerator, newest)
            self.weighting.load(self.progress.weighting)

    def train_epoch(self, bar: tqdm) -> None:
        """Train to the end of the epoch, from wherever in it the run stands."""
        every, progress = self.config.checkpoint_every, self.progress
        clock = Stopwatch(self.accelerator.device)
        for images, labels in self.batches(progress.epoch, progress.step * self.parts):
            self.step(images, labels)
            if self.accelerator.sync_gradients:
                progress.step += 1
                bar.update()
                if every and self.steps % every == 0:
                    progress.train_seconds += clock.lap()
                    self.save()
                    clock.lap()
        self.weighting.after_epoch()
        align(self.network, self.data.train, self.config.align)
        progress.train_seconds += clock.lap()
        progress.epoch, progress.step = progress.epoch + 1, 0

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's images (B, C, H, W), augmented, and labels (B, T) of an epoch.

        Args:
            epoch: which determines order and augmentation.
            first: batches that are left out at its beginning.
        """
        self.loader.set_epoch(epoch)
        self.augmentation.start_epoch(epoch)
        batches = self.accelerator.skip_first_batches(self.loader, first) if first else self.loader
        for images, labels, chosen in batches:
            yield self.augmentation(images, chosen) if self.config.augment else images, labels

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Train on a batch, or on a part of one where gradients are accumulated.

        The model makes the losses of the tasks (``network.py``), and the weighting their gradient:
        of their sum, unless settings say otherwise.
        """
        self.assignment.before_step(self.steps, self.network, self.data.train)
        self.network.logit_share = self._logit_share()
        with self.accelerator.accumulate(self.model), self._divergence_named(images):
            self.weighting.backward(self.model, images, labels)
            self.optimizer.step()
            self.schedule.step()
            self.weighting.after_step(images, labels)
            self.optimizer.zero_grad()

    def _logit_share(self) -> float:
        rising = self.config.warm_up_logits * self.steps_per_epoch
        return min(1.0, (self.steps + 1) / rising) if rising else 1.0

    @contextmanager
    def _divergence_named(self, images: Tensor) -> Iterator[None]:
        """Some heads and strategies refuse what is not finite: that is a run that has diverged."""
        try:
            yield
        except ValueError as error:
            with torch.no_grad():
                features = self.network.features(images)
            if features.isfinite().all():
                raise
            raise self._diverged() from error

    def measure(self) -> Epoch:
        """Add a record to the history, and return it."""
        self.check()
        share_buffers(self.network)
        epoch, seconds = self.progress.epoch, self.progress.train_seconds
        row = measure(self.accelerator, self.network, self.data, epoch, seconds)
        if not math.isfinite(row.train.loss):
            raise self._diverged()
        self.progress.history.append(row)
        return row

    def check(self, weighting: dict[str, Any] | None = None) -> None:
        """Stop before anything is written of a run that has diverged."""
        if not (all_finite(self.accelerator, self.network) and finite(weighting)):
            raise self._diverged()

    def _diverged(self) -> FloatingPointError:
        config, last = self.config, max(self.schedule.scheduler.last_epoch - 1, 0)
        fp16 = self.accelerator.mixed_precision == "fp16"
        return FloatingPointError(
            f"the loss or the weights are not finite after step {self.steps}, in epoch "
            f"{math.ceil(self.steps / self.steps_per_epoch)} of {config.epochs}, at the learning "
            f"rate {config.lr * self.share(last):.3g}. Nothing of this was saved, and --resume "
            f"would take the same steps: start again in another --output with a lower --lr (this "
            f"was {config.lr:g}) or --scale ({config.scale:g})"
            + (", or with --mixed-precision bf16 or no" if fp16 else "")
        )

    def save(self) -> None:
        """Write a checkpoint."""
        self.progress.weighting = self.weighting.state()
        self.check(self.progress.weighting)
        save_checkpoint(self.accelerator, self.config, self.progress)

    def progress_bar(self) -> tqdm:
        """A bar of optimiser steps, shown on the main process."""
        return tqdm(
            total=self.config.epochs * self.steps_per_epoch,
            initial=self.steps,
            desc=f"{self.config.head}, seed {self.config.seed}",
            mininterval=0.5,
        )

    def write_result(self) -> RunResult:
        """Write the weights, then ``result.json``, which says that the run is complete."""
        write_weights(self.network, self.config.run_dir)
        result = RunResult(
            config=self.config.to_json(),
            history=self.progress.history,
            tasks=self.data.tasks,
            terminal_epoch=terminal_epoch(self.progress.history),
            gram=class_cosines(self.network.head.weight, self.data.tasks),
            counts=counts(self.network, partial(optimizer_over, settings=self.config)),
            provenance=provenance(
                self.accelerator.device,
                processes=self.accelerator.num_processes,
                mixed_precision=self.accelerator.mixed_precision,
            ),
        )
        result.write(self.config.run_dir)
        return result


def _read(config: RunConfig, accelerator: Accelerator) -> ImageData:
    first = accelerator.local_main_process_first() if config.download else nullcontext()
    with first:  # one process of a machine fetches the files, the others find them
        return load_data(config.data, config)
