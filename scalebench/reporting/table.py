"""A table of text, and the columns that every row of an experiment begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from scalebench.analysis.cells import Cell

from .experiments import Experiment
from .text import UNKNOWN

Row = dict[str, str]

RANK_WORDS = ("GPUs", "processes")
"""The column of ranks, on a GPU and on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text. `notes` are sentences under it."""

    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def table(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> Table | None:
    """`rows` as a Table without the columns that nothing is known of; None without rows."""
    frame = pd.DataFrame(rows).fillna(UNKNOWN)
    kept = [name for name in frame.columns if (frame[name] != UNKNOWN).any()]
    return Table(title=title, frame=frame[kept], notes=list(dict.fromkeys(notes))) if rows else None


def place(experiment: Experiment, cell: Cell) -> Row:
    """Ranks and precision of a cell."""
    column = RANK_WORDS[0 if experiment.unit == "GPU" else 1]
    return {column: str(cell.spec.world_size), "precision": cell.precision}
