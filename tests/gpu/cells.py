"""The cells of the cover, one run each, in the plan's order; what is recorded already is not run again.

python -m tests.gpu.cells RESULTS [--stand-in]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from scalebench.harness.resume import standing
from scalebench.harness.runner import execute
from scalebench.machine import detect
from scalebench.records.record import Record
from scalebench.spec import PlannedRun
from tests.gpu.plan import cells, spec_of

STAND_IN_CELLS = 3


class Lines:
    """A line per run that ended."""

    def session_started(self, runs: Sequence[PlannedRun]) -> None: ...
    def run_started(self, index: int, run: PlannedRun) -> None: ...
    def phase(self, index: int, phase: str) -> None: ...

    def run_ended(self, index: int, record: Record, path: Path) -> None:
        click.echo(f"{record.spec.label}: {record.status} {record.reason or ''}, {record.wall_seconds:.1f} s")


def planned(stand_in: bool) -> list[PlannedRun]:
    """The runs; of the stand-in's the first few of strategies that need nothing but torch."""
    machine = detect("cpu" if stand_in else "cuda")
    chosen = [cell for cell in cells() if "deepspeed" not in cell["strategy"] and "fp16" not in cell["precision"]]
    found = chosen[:STAND_IN_CELLS] if stand_in else cells()
    return [PlannedRun(spec=spec_of(cell, machine, stand_in)) for cell in found]


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--stand-in", is_flag=True)
def main(results: Path, stand_in: bool) -> None:
    left = standing(planned(stand_in), results).left
    if left:
        execute(left, results=results, progress=Lines())


if __name__ == "__main__":
    main()
