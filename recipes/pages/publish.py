"""The end of a command: its summary as JSON and as a page, and its tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from recipes.pages.tables import Line, terminal_table
from recipes.records import to_json
from recipes.storage import write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


def publish(
    summary: S,
    place: Path,
    write_page: Callable[[S, Path], None],
    table: Sequence[Line],
    verdict: str,
) -> None:
    """Write a summary as JSON and as a page, and print a table of it and its verdict.

    Args:
        summary: what was found.
        place: of both files, without their endings.
        write_page: writes the page.
        table: for the terminal.
        verdict: in a sentence or more.
    """
    write_json(place.with_name(f"{place.name}.json"), to_json(summary))
    page = place.with_name(f"{place.name}.html")
    write_page(summary, page)
    print(f"\n{terminal_table(table)}\n\n{verdict}\n\npage: {page}")
