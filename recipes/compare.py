"""Train several heads with several seeds: ``accelerate launch recipes/compare.py PRESET``.

Writes the runs, ``comparison.json`` and ``report.html`` under ``runs/PRESET``, and prints a table.
On one process ``python recipes/compare.py PRESET`` is the same. The preset "multi-digits" takes
about a minute and a half on two CPU cores. ``--help`` after the preset explains every setting.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from recipes.command import command
from recipes.training.presets import parse_config
from recipes.training.settings import CompareConfig

if TYPE_CHECKING:
    from accelerate import PartialState

    from recipes.comparison.tuning import Tuned
    from recipes.training.result import RunResult


def main() -> None:
    """Train what the command line says, and put it side by side."""
    config = parse_config(CompareConfig)
    with command():
        from recipes.training.engine import train
        from recipes.training.jobs import train_all
        from recipes.training.processes import process_state

        state = process_state()
        tuned = _tuned(config, state)
        runs = config.runs({head: found.settings for head, found in tuned.items()})
        found = train_all([(train, run) for run in runs + config.plain_runs()], config.jobs)
        if state.is_main_process:
            _report(config, found[: len(runs)], found[len(runs) :], tuned, state)
    state.wait_for_everyone()
    state.destroy_process_group()


def _tuned(config: CompareConfig, state: PartialState) -> dict[str, Tuned]:
    """What equal tuning chose for each head; nothing without tuning."""
    searches = config.searches()
    if not searches:
        return {}
    from recipes.comparison.tuning import choice_in_words, tune
    from recipes.training.engine import train
    from recipes.training.jobs import train_all

    taken = [run.run_dir for run in config.runs() if run.run_dir.exists()]
    if taken and not config.resume:  # which the runs would say after all trials
        raise FileExistsError(
            f"{taken[0]} already holds a run: go on with it with --resume, or give another --output"
        )
    search = partial(tune, trials=config.tune, train=train)
    found = train_all([(search, run) for run in searches], config.jobs)
    tuned = dict(zip(config.heads, found, strict=True))
    for head, best in tuned.items():
        state.print(
            f"{head}: of {len(best.trials)} trials the best is "
            f"{choice_in_words(best.settings)} ({best.accuracy:.2%} on images held out)",
            flush=True,
        )
    return tuned


def _report(
    config: CompareConfig,
    runs: list[RunResult],
    plain: list[RunResult],
    tuned: dict[str, Tuned],
    state: PartialState,
) -> None:
    from accelerate.utils import set_seed

    from recipes.comparison.answer import verdict
    from recipes.comparison.head_cost import head_cost
    from recipes.comparison.report import reach_table, table, write_report
    from recipes.comparison.summary import PLAIN, compare
    from recipes.data import load_data
    from recipes.pages.tables import terminal_table
    from recipes.records import to_json
    from recipes.storage import write_json
    from recipes.training.building import head_request
    from recipes.training.heads import HEADS
    from recipes.training.loss import make_loss

    costs = {}
    data = load_data(config.data, config)
    for name in [*config.heads, *([PLAIN] if plain else [])]:
        set_seed(0)
        head = HEADS["learned" if name == PLAIN else name](head_request(config, data))
        costs[name] = head_cost(
            head, make_loss(config, data), config.batch_size, config.features, state.device
        )
    summary = compare(runs, config.heads[0], costs, plain=plain, tuned=tuned)
    write_json(config.report_dir / "comparison.json", to_json(summary))
    page = config.report_dir / "report.html"
    write_report(summary, page)
    tables = "\n\n".join(map(terminal_table, (reach_table(summary), table(summary))))
    print(f"\n{tables}\n\n{verdict(summary)}\n\nreport: {page}")


if __name__ == "__main__":
    main()
