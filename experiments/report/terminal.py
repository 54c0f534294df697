"""Tables on a terminal: no word and no number is cut, however narrow it is."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.lines import fold
from experiments.report.tables import Cells, tables

# What stays on one line: a word, a number with its deviation or unit, the number of seeds.
_CHUNK = re.compile(r"\(\d+ seeds[^)]*\)|[\d.,]+ (?:%|steps)(?!\S)|\S+(?: ± \S+)*")
# Between two columns: a space on each side of the divider.
_GAP = 3


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Prints the tables of a summary."""
    show_tables(tables(summary), console)


def show_tables(tables: Sequence[Cells], console: Console) -> None:
    """Prints tables.

    Where a table is too wide, cells are folded between words, optional columns are left out, and
    at last the other columns follow below, beside the first one.
    """
    for number, table in enumerate(tables):
        if number:
            console.print()
        if table.caption:
            # Levels such as [h, 4, 2, 1] are not markup.
            console.print(escape(table.caption), highlight=False, style="italic")
        kept = _without_optional(table, console.width)
        for part, columns in enumerate(_parts(kept, console.width)):
            if part:
                console.print()
            console.print(_drawn(kept, columns, console.width))
        if left_out := [one for one in table.headings if one not in kept.headings]:
            console.print(f"(not shown: {', '.join(left_out)})", highlight=False, style="dim")


def _without_optional(table: Cells, width: int) -> Cells:
    """The table without the columns that must be left out for it to fit."""
    for heading in table.optional:
        if _width(_narrowest(table)) <= width:
            break
        i = list(table.headings).index(heading)
        table = table._replace(
            headings=[*table.headings[:i], *table.headings[i + 1 :]],
            rows=[[*row[:i], *row[i + 1 :]] for row in table.rows],
        )
    return table


def _parts(table: Cells, width: int) -> list[list[int]]:
    """The numbers of the columns that fit beside each other; what tells rows apart is in all."""
    narrowest = _narrowest(table)
    names = {row[0] for row in table.rows}
    first = [0] if len(names) == len(table.rows) or len(narrowest) < 2 else [0, 1]
    parts = [first.copy()]
    for i in range(len(first), len(narrowest)):
        if parts[-1] != first and _width([narrowest[j] for j in (*parts[-1], i)]) > width:
            parts.append(first.copy())
        parts[-1].append(i)
    return parts


def _drawn(table: Cells, columns: Sequence[int], width: int) -> Table:
    """These columns of a table, folded so far that they fit if they can."""
    view = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    narrowest = [_narrowest(table)[i] for i in columns]
    widths = [max(map(cell_len, _column(table, i)), default=0) for i in columns]
    while _width(widths) > width and widths != narrowest:
        # The one that gives most.
        slack = [wide - narrow for wide, narrow in zip(widths, narrowest, strict=True)]
        widest = max((i for i, more in enumerate(slack) if more), key=lambda i: widths[i])
        widths[widest] -= 1
    for i, wide in zip(columns, widths, strict=True):
        heading = escape(_fold(table.headings[i], wide))
        view.add_column(heading, justify="left" if i < 2 else "right", width=wide, overflow="fold")
    for row in table.rows:
        cells = (_fold(row[i], wide) for i, wide in zip(columns, widths, strict=True))
        view.add_row(*map(escape, cells))
    return view


def _column(table: Cells, i: int) -> list[str]:
    return [row[i] for row in (table.headings, *table.rows)]


def _narrowest(table: Cells) -> list[int]:
    """The least width of each column: its longest chunk."""
    return [
        max(
            (cell_len(one) for cell in _column(table, i) for one in _CHUNK.findall(cell)), default=0
        )
        for i in range(len(table.headings))
    ]


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _fold(cell: str, width: int) -> str:
    """The chunks of a cell on as many lines as they need."""
    return "\n".join(fold(_CHUNK.findall(cell), width))
