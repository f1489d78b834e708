"""How the command prints tables on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

UNBOUNDED = 2000
"""Columns where nobody looks at a terminal: a row stays on one line, for grep and for logs."""


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same table in markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, folded to the terminal's width if there is a terminal; nothing is ever cut off."""
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    (console if console.is_terminal else Console(highlight=False, markup=False, width=UNBOUNDED)).print(table)
