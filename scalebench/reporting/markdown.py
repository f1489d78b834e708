"""Markdown of the report's parts."""

from __future__ import annotations

from .table import Table


def heading(level: int, text: str) -> str:
    """`## text`."""
    return f"{'#' * level} {text}"


def bullets(lines: list[str]) -> str:
    """One bullet per line."""
    return "\n".join(f"- {line}" for line in lines)


def image(title: str, file_name: str) -> str:
    """A figure that lies beside the report."""
    return f"![{title}]({file_name})"


def markdown_table(table: Table) -> str:
    """A pipe table with its notes under it; the columns are padded so that the source can be read too."""
    rows = [
        list(map(str, table.frame.columns)),
        *(list(map(_escaped, row)) for row in table.frame.itertuples(index=False)),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join(lines) + "".join(f"\n\n{note}" for note in table.notes)


def _escaped(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
