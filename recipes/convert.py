"""Swap trained heads for fixed ones: ``accelerate launch recipes/convert.py PRESET``.

Trains networks with learned heads, puts fixed ones in their place, and measures test accuracy
before, right after, and after one epoch of fine-tuning. Writes the runs, ``convert.json`` and
``convert.html`` under ``runs/PRESET``, and prints a table. On one process ``python
recipes/convert.py PRESET`` is the same; with ``--resume`` it takes the learned runs that
``compare.py`` finished there. ``--help`` after the preset explains every setting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recipes.command import command
from recipes.conversion.config import ConvertConfig
from recipes.training.presets import parse_config

if TYPE_CHECKING:
    from recipes.conversion.summary import Converted
    from recipes.training.result import RunResult


def main() -> None:
    """Train, convert and fine-tune what the command line says, and put it side by side."""
    config = parse_config(ConvertConfig)
    with command():
        from recipes.conversion.summary import converted
        from recipes.conversion.swap import swapped
        from recipes.training.engine import train
        from recipes.training.processes import process_state

        trained = [(run, train(run)) for run in config.runs()]
        found = [
            converted(result, way, tuning, train(tuning, make_network=swapped(run, way)))
            for run, result in trained
            for way, tuning in config.fine_tunings(run)
        ]
        state = process_state()
        if state.is_main_process:
            _report(config, found, trained[0][1])
    state.wait_for_everyone()
    state.destroy_process_group()


def _report(config: ConvertConfig, found: list[Converted], first: RunResult) -> None:
    from recipes.conversion.report import convert_table, convert_verdict, write_convert_report
    from recipes.conversion.summary import summarise
    from recipes.pages.publish import publish

    summary = summarise(found, first)
    table, verdict = convert_table(summary), convert_verdict(summary)
    publish(summary, config.report_dir / "convert", write_convert_report, table, verdict)


if __name__ == "__main__":
    main()
