"""The fault matrix: faults really injected into sweeps, and whether each ended as it must.

    python -m tests.benchmarks.faults [--strategy ddp,...] [--only TEXT]

A cell of the first table is the time from the fault to the end of its run (`ok` where the fault comes from within), of
the second the time that the sweep took with its resumption. What was wrong stands below. Some need root: without it
they are skipped, and say so.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from tests.distributed.disasters import DISASTERS, Disaster, befall
from tests.distributed.faults import FAULTS, STRATEGIES, Fault, suffer

Rows = dict[str, list[str]]


@click.command(help=__doc__)
@click.option("--strategy", "strategies", default=",".join(STRATEGIES), show_default=True)
@click.option("--only", default="", help="Only what has this in its name.")
def main(strategies: str, only: str) -> None:
    faults = [fault for fault in FAULTS if only in fault.name]
    disasters = [disaster for disaster in DISASTERS if only in disaster.name]
    names, wrong = strategies.split(","), list[str]()
    in_runs: Rows = {f"{fault.name} → {fault.status}": [] for fault in faults}
    of_sweeps: Rows = {disaster.name: [] for disaster in disasters}
    for strategy in names:
        fill(in_runs, suffered(strategy, faults, wrong))
        fill(of_sweeps, befallen(strategy, disasters, wrong))
    for title, rows in (("a fault in a run → how it must end", in_runs), ("a disaster of a sweep", of_sweeps)):
        if rows:
            print(table(title, names, rows), "", sep="\n")
    print("\n".join(wrong or ["Everything ended as it must."]))
    sys.exit(bool(wrong))


def suffered(strategy: str, faults: Sequence[Fault], wrong: list[str]) -> Iterator[str]:
    """A word on each of `faults` under `strategy`."""
    if not faults:
        return
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for one in suffer(strategy, faults, Path(folder)):
            wrong += [f"{strategy}: {said}" for said in one.wrong]
            time_taken = "ok" if one.seconds is None else f"{one.seconds:.1f} s"
            yield "WRONG" if one.wrong else time_taken


def befallen(strategy: str, disasters: Sequence[Disaster], wrong: list[str]) -> Iterator[str]:
    """A word on each of `disasters` under `strategy`."""
    for disaster in disasters:
        if disaster.needs_root and os.geteuid():
            yield "needs root"
            continue
        print(f"{strategy}: {disaster.name} ...", file=sys.stderr)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="disaster-") as folder:
            found = befall(disaster, strategy, Path(folder))
        wrong += [f"{strategy}: {disaster.name}: {said}" for said in found]
        yield "WRONG" if found else f"{time.monotonic() - began:.0f} s"


def fill(rows: Rows, words: Iterator[str]) -> None:
    """Add a column."""
    for row, word in zip(rows.values(), words, strict=True):
        row.append(word)


def table(title: str, names: Sequence[str], rows: Rows) -> str:
    """Markdown."""
    lines = [[title, *names], ["---"] * (1 + len(names)), *([name, *words] for name, words in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
