"""The fault matrix: faults really injected into sweeps, and whether each ended as it must.

    python -m tests.benchmarks.faults [--strategy ddp,...] [--only TEXT]

A cell of the table is the time from the fault to the end of its run, or what was wrong.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from tests.distributed.faults import FAULTS, STRATEGIES, Suffered, suffer


@click.command(help=__doc__)
@click.option("--strategy", "strategies", default=",".join(STRATEGIES), show_default=True)
@click.option("--only", default="", help="Only faults whose name has this in it.")
def main(strategies: str, only: str) -> None:
    faults = [fault for fault in FAULTS if only in fault.name]
    columns: list[list[Suffered]] = []
    for strategy in strategies.split(","):
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            columns.append(suffer(strategy, faults, Path(folder)))
    print(table(strategies.split(","), columns))
    sys.exit(any(one.wrong for column in columns for one in column))


def table(strategies: Sequence[str], columns: Sequence[Sequence[Suffered]]) -> str:
    """Faults down, strategies across, and below what was wrong."""
    head = ["fault", "must end as", *strategies]
    rows = [[row[0].fault.name, row[0].fault.status, *map(ending, row)] for row in zip(*columns, strict=True)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    wrong = [f"{s}: {said}" for s, column in zip(strategies, columns, strict=True) for x in column for said in x.wrong]
    return "\n".join([*lines, "", *(wrong or ["Everything ended as it must."])])


def ending(suffered: Suffered) -> str:
    """`1.2 s`, `ok` where the time is not known, or WRONG."""
    if suffered.wrong:
        return "WRONG"
    return f"{suffered.seconds:.1f} s" if suffered.seconds is not None else "ok"


if __name__ == "__main__":
    main()
