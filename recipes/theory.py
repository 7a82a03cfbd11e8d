"""The theory against descent: ``accelerate launch recipes/theory.py [grid|images|landscape]``.

``grid`` (the default) optimises unconstrained feature models from random starts and compares each
end with the closed forms of Theorems 3.1, 3.2 and 5.1 and with ``optimal_gram``, line by line: half
a minute on one CPU core. ``images`` trains networks on two-digit images whose two binary labels are
correlated, and puts the angles they find beside the closed form: about five minutes with
``OMP_NUM_THREADS=1``, which suits such small networks. ``landscape`` looks for critical points of
small models under five losses and on the sphere, whether they are saddles, and follows gradient
flow from a Hadamard start: ten minutes. Each prints a table, and writes JSON and a page under
``runs/theory``; on one process ``python recipes/theory.py`` is the same, and ``--help`` explains
every setting.
"""

from __future__ import annotations

import sys

import tyro

from recipes.command import command
from recipes.verification.config import Command, Grid, Images, Landscape


def main() -> None:
    """Do what the command line says; the exit status is 1 where a criterion is not met."""
    config = tyro.cli(
        Command,
        default=Grid(),
        description=(__doc__ or "").partition("\n\n")[2].replace("``", ""),
    )
    with command():
        from recipes.training.processes import process_state

        config.output.mkdir(parents=True, exist_ok=True)
        match config:
            case Grid():
                agrees = run_grid(config)
            case Images():
                agrees = run_images(config)
            case Landscape():
                agrees = run_landscape(config)
    process_state().destroy_process_group()
    sys.exit(0 if agrees else 1)


def run_grid(config: Grid) -> bool:
    """Check every problem of the grid; the processes of a launch share them out."""
    from accelerate.utils import gather_object, tqdm

    from recipes.pages.publish import publish
    from recipes.provenance import provenance
    from recipes.training.processes import process_state
    from recipes.verification.descent import Summary, check
    from recipes.verification.grid_report import grid_table, grid_verdict, write_grid_report
    from recipes.verification.problems import grid

    state = process_state()
    problems = grid(random_problems=config.random_problems, small=config.small)
    # Every n-th to each of n processes: slow lines stand together.
    mine = list(enumerate(problems))[state.process_index :: state.num_processes]
    bar = tqdm(mine, desc="problems", mininterval=0.5)
    found = [(number, check(problem, config.starts)) for number, problem in bar]
    summary = Summary(
        tolerance=config.tolerance,
        starts=config.starts,
        lines=[line for _, line in sorted(gather_object(found), key=lambda pair: pair[0])],
        provenance=provenance("cpu", processes=state.num_processes),
    )
    if state.is_main_process:
        table, verdict = grid_table(summary), grid_verdict(summary)
        publish(summary, config.output / "theory", write_grid_report, table, verdict)
    state.wait_for_everyone()
    return summary.agrees


def run_images(config: Images) -> bool:
    """Train the networks of the sweep, and put them beside each other."""
    from accelerate.utils import tqdm

    from recipes.pages.publish import publish
    from recipes.provenance import commit
    from recipes.training.engine import train
    from recipes.training.processes import process_state
    from recipes.verification.images import Summary, examine, summarise
    from recipes.verification.images_report import (
        images_table,
        images_verdict,
        write_images_report,
    )

    runs = [(share, run, train(run)) for share, run in config.runs()]
    state = process_state()
    if state.is_main_process:
        bar = tqdm(runs, desc="measuring", mininterval=0.5)
        found = [examine(run, share, result) for share, run, result in bar]
        summary = Summary(
            **vars(summarise(found)),
            settings=config.shared_settings(),
            provenance=runs[0][2].provenance,
            examined=commit(),
        )
        table, verdict = images_table(summary), images_verdict(summary)
        publish(summary, config.output / "theory_images", write_images_report, table, verdict)
    state.wait_for_everyone()
    return True


def run_landscape(config: Landscape) -> bool:
    """Find critical points and follow flows, on the main process."""
    from accelerate.utils import tqdm

    from recipes.pages.publish import publish
    from recipes.provenance import provenance
    from recipes.training.processes import process_state
    from recipes.verification.landscape import hadamard_checks, landscape_checks
    from recipes.verification.landscape_report import (
        Summary,
        landscape_table,
        landscape_verdict,
        write_landscape_report,
    )

    if not process_state().is_main_process:
        return True
    found = tqdm(landscape_checks(config.starts, config.seed), desc="checks", mininterval=0.5)
    checks = [*found, *hadamard_checks(config.seed)]
    summary = Summary(config.starts, config.seed, checks, provenance("cpu"))
    table, verdict = landscape_table(summary), landscape_verdict(summary)
    publish(summary, config.output / "theory_landscape", write_landscape_report, table, verdict)
    return summary.holds


if __name__ == "__main__":
    main()
