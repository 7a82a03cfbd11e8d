"""Test what "Neural Collapse in Multi-Task Learning" says: ``accelerate launch recipes/paper.py``.

Each claim is trained for, measured, and judged by a rule that stands in its file under
``recipes/claims``: it holds, does not hold, or is undecided. The terminal shows criteria and
numbers; everything is in ``CLAIM.json``, and on a page of its own, ``CLAIM.html``, under
``runs/paper``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from recipes import claims
from recipes.command import command

if TYPE_CHECKING:
    from accelerate import PartialState

    from recipes.claims.claim import Claim

    ClaimName = str
else:
    ClaimName = tyro.extras.literal_type_from_choices([*claims.CLAIMS, "all"])


@dataclass(frozen=True)
class Options:
    """The claims to test, their size, and the directories.

    Attributes:
        claims: their names; all of them by default.
        size: reduced takes minutes a claim on two CPU cores; full is what papers train, for a GPU.
        root: directory of the data files, as torchvision lays them out.
        download: let torchvision fetch files that are not there.
        seeds: train with these in place of each claim's own.
        epochs: train for so long in place of each claim's own.
        jobs: train so many runs at once, each in a process of its own; seconds are those of a
            shared machine then.
        output: directory of runs, results and pages. Finished runs in it are not run again, and
            a run that was killed goes on.
        render_only: run nothing; judge the results that are in the output directory, by the rule
            as it stands now, and write their pages.
    """

    claims: Annotated[tuple[ClaimName, ...], tyro.conf.Positional] = ("all",)
    size: Literal["reduced", "full"] = "reduced"
    root: Path = Path("data")
    download: bool = False
    seeds: tuple[int, ...] = ()
    epochs: int | None = None
    jobs: int = 1
    output: Path = Path("runs/paper")
    render_only: bool = False


def main() -> None:
    """Do what the command line says; the exit status says nothing of what holds."""
    options = tyro.cli(Options, description=(__doc__ or "").replace("``", ""))
    names = claims.CLAIMS if "all" in options.claims else options.claims
    with command(ImportError, resumes="the same command"):
        from recipes.training.processes import process_state

        state = process_state()
        for name in names:
            _claim(claims.find_claim(name), options, state)
    state.destroy_process_group()


def _claim(claim: Claim, options: Options, state: PartialState) -> None:
    from recipes.claims.claim import Judged
    from recipes.claims.evidence import Request, gather
    from recipes.claims.report import criteria_table, numbers_table, verdict, write_claim
    from recipes.pages.tables import terminal_table
    from recipes.records import read_record, to_json
    from recipes.storage import write_json

    place = options.output / f"{claim.name}.json"
    if options.render_only:
        found = read_record(Judged, place)
        judged = replace(found, criteria=claim.judge(found.evidence))
    else:
        judged = gather(
            claim,
            Request(
                size=options.size,
                output=options.output,
                root=options.root,
                download=options.download,
                seeds=options.seeds,
                epochs=options.epochs,
                jobs=options.jobs,
            ),
        )
    if state.is_main_process:
        write_json(place, to_json(judged), indent=None)
        page = place.with_suffix(".html")
        write_claim(claim, judged, page)
        print(
            f"\n{claim.title}\n\n{terminal_table(criteria_table(judged))}\n\n"
            f"{terminal_table(numbers_table(claim, judged))}\n\n{verdict(judged)}\n\npage: {page}"
        )
    state.wait_for_everyone()


if __name__ == "__main__":
    main()
