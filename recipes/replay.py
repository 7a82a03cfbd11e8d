"""Learn classes in sessions, with a buffer of earlier ones: ``python recipes/replay.py [digits]``.

Five sessions of two classes each, one head for all; in every step as many images of the buffer as
new ones. After each session the head is measured, a linear probe on its features, and how far the
buffer's class means and covariances are from those of all images. Trains every head with every
size of the buffer and every seed, seconds each, prints a table, and writes the runs, ``DATA.json``
and ``DATA.html`` under ``runs/replay``. Finished runs in it are not run again, and a run that was
killed goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from recipes.command import check_each_once, command
from recipes.rehearsal.settings import REDUCED, DataName, HeadName, SessionsRun


@dataclass(frozen=True)
class Options:
    """The runs to compare.

    Attributes:
        data: digits ship inside scikit-learn; mnist is read from root.
        heads: what to compare; the first is the baseline of the others. nn.Linear on features as
            they come (learned), on batch-normalised ones (learned-norm), on these without a bias
            (no-bias); on these, class vectors of length 1 that are learned (cosine) or frozen
            (random-rows), and simplex ETFs of lengths 1 and 4 (etf, etf-4), in a random orientation
            (etf-random) or in as few coordinates as they need (etf-canonical); an ETF on features
            as they come (etf-plain).
        buffers: shares of the earlier classes' images that are kept.
        seeds: each head is trained with each of them; intervals need two or more.
        epochs: passes over each session's images; by default 30 (digits) or 8 (mnist).
        train_images: in all; by default all digits, or 5,000 of mnist.
        root: directory of the data files, as torchvision lays them out.
        download: let torchvision fetch files that are not there.
        jobs: train so many runs at once, each in a process of its own.
        output: directory of runs, results and pages.
    """

    data: Annotated[DataName, tyro.conf.Positional] = "digits"
    heads: tuple[HeadName, ...] = ("learned-norm", "etf", "random-rows")
    buffers: tuple[float, ...] = (0.0, 0.005, 0.02, 0.1, 0.5)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int | None = None
    train_images: int | None = None
    root: Path = Path("data")
    download: bool = False
    jobs: int = 1
    output: Path = Path("runs/replay")

    def __post_init__(self) -> None:
        check_each_once(self, "heads", "buffers", "seeds")

    def runs(self) -> list[SessionsRun]:
        """Settings of every run, seed by seed, so that a break leaves whole comparisons."""
        given = {"epochs": self.epochs, "train_images": self.train_images}
        chosen: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        shared = SessionsRun(
            data=self.data,
            root=self.root,
            download=self.download,
            jobs=self.jobs,
            resume=True,
            **REDUCED[self.data] | chosen,
        )
        runs = [
            replace(shared, head=head, buffer=buffer, seed=seed)
            for seed in self.seeds
            for buffer in self.buffers
            for head in self.heads
        ]
        return [replace(run, output=self.output / self.data / run.run_dir.name) for run in runs]


def main() -> None:
    """Train what the command line says, and put it side by side."""
    options = tyro.cli(Options, description=(__doc__ or "").partition("\n\n")[2].replace("``", ""))
    with command(resumes="the same command"):
        from recipes.rehearsal.sessions import learn
        from recipes.training.jobs import train_all

        runs = options.runs()
        _report(options, runs, train_all([(learn, run) for run in runs], options.jobs))


def _report(options: Options, runs: list[SessionsRun], results: list[Any]) -> None:
    from recipes.pages.publish import publish
    from recipes.rehearsal.report import rows_table, verdict, write_report
    from recipes.rehearsal.summary import Summary, summarise_rows

    histories: dict[tuple[str, float], list[Any]] = {}
    for run, result in zip(runs, results, strict=True):
        histories.setdefault((run.head, run.buffer), []).append(result.history)
    apart = {"head", "buffer", "seed", "data"}
    summary = Summary(
        data=options.data,
        seeds=list(options.seeds),
        rows=summarise_rows(histories),
        settings={k: value for k, value in runs[0].to_json().items() if k not in apart},
        provenance=results[0].provenance,
    )
    table, said = rows_table(summary.rows), verdict(summary.rows, len(summary.seeds))
    publish(summary, options.output / options.data, write_report, table, said)


if __name__ == "__main__":
    main()
