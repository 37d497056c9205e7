"""A table that omits whole columns in a narrow terminal, instead of truncating names and numbers."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000  # characters; no table is wider


class Column(NamedTuple):
    """One column: what it shows of a row, and how early it is omitted."""

    heading: str
    cell: Callable[[Any], Text | str]
    rank: int  # the highest is omitted first; 0: never
    justify: Literal["left", "right"] = "right"
    style: str = ""
    least: int = 0  # characters; keeps the layout stable while numbers change


def fitting(columns: Sequence[Column], rows: Sequence[Any], width: int) -> Table:
    """Return a table of at most `width` characters, with as many of the columns as fit."""
    shown = list(columns)
    while True:
        table = _table(shown, rows)
        first = max(shown, key=lambda column: column.rank)
        if first.rank == 0 or Console(width=UNBOUNDED).measure(table).maximum <= width:
            return table
        shown.remove(first)


def _table(columns: Sequence[Column], rows: Sequence[Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        table.add_column(
            column.heading, justify=column.justify, style=column.style, min_width=column.least or None, no_wrap=True
        )
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    return table
