"""Test what "Neural Collapse in Multi-Task Learning" says: ``accelerate launch recipes/paper.py``.

Each claim is trained for, measured, and judged by a rule that stands in its file under
``recipes/claims``: it holds, does not hold, or is undecided. The terminal shows criteria and
numbers; everything is in ``CLAIM.json``, and on a page of its own, ``CLAIM.html``, under
``runs/paper``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from recipes import claims
from recipes.claims.request import Request
from recipes.command import command

if TYPE_CHECKING:
    from accelerate import PartialState

    from recipes.claims.claim import Claim

    ClaimName = str
else:
    ClaimName = tyro.extras.literal_type_from_choices([*claims.CLAIMS, "all"])


@dataclass(frozen=True)
class Options(Request):
    """The claims to test, their size, and the directories.

    Attributes:
        claims: their names; all of them by default.
        render_only: run nothing; judge the results that are in the output directory, by the rule
            as it stands now, and write their pages.
    """

    claims: Annotated[tuple[ClaimName, ...], tyro.conf.Positional] = ("all",)
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
    from recipes.claims.evidence import gather
    from recipes.claims.report import criteria_table, numbers_table, verdict, write_claim
    from recipes.pages.tables import terminal_table
    from recipes.records import read_record, to_json
    from recipes.storage import write_json

    place = options.output / f"{claim.name}.json"
    if options.render_only:
        found = read_record(Judged, place)
        judged = replace(found, criteria=list(claim.judge(found.evidence)))
    else:
        judged = gather(claim, options)
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
