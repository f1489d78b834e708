"""Does every workload train under every strategy as it does under plain PyTorch? The table of docs/parity.md.

\b
    python -m tests.benchmarks.workload_parity                     # fp32, on 2 ranks, a few minutes
    python -m tests.benchmarks.workload_parity --precision bf16
    python -m tests.benchmarks.workload_parity --show              # the tables of what is recorded

Each check is the one that `scalebench run --parity` makes, of the workload's tiny size, and its record is kept in
--results: what is there already is not checked again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from scalebench import strategies, workloads
from scalebench.cli.progress import open_progress
from scalebench.harness.resume import standing
from scalebench.harness.runner import execute
from scalebench.machine import detect
from scalebench.matrix import plan, resolve
from scalebench.matrix.request import Request
from scalebench.records.record import ParityFacts, Record
from scalebench.spec import PlannedRun
from tests.benchmarks.tables import markdown

EMA_DECAY = 0.9
FIGURES = ("loss", "norm", "parameters", "average")
STRATEGIES = ("ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")


def planned(names: Sequence[str], under: Sequence[str], precision: str) -> list[PlannedRun]:
    """A check of each workload's smallest size under each strategy, on two CPU ranks and the workload's own data."""
    asked = {"workload": names, "strategy": under, "precision": precision, "ema_decay": EMA_DECAY}
    request = Request.model_validate(asked | {"gpus": 2, "device": "cpu"})
    return plan(resolve(request, detect("cpu")), 0, 0, parity=True)


def check(runs: Sequence[PlannedRun], results: Path, *, show: bool = False) -> list[Record]:
    """The records of `runs`: those that are there, and unless they are only to be shown, the others made."""
    found = standing(runs, results, ("failed", "timeout"))
    with open_progress(found.recorded) as progress:
        if found.left and not show:
            execute(found.left, results=results, progress=progress)
    return [record for record, _ in progress.finished]


def table(records: Sequence[Record]) -> str:
    """A row per workload, a column per strategy: the largest relative differences of all FIGURES."""
    found = {(record.spec.workload, record.spec.strategy): said(record) for record in records}
    names = [name for name in workloads.FAMILIES if any(name == key[0] for key in found)]
    columns = [name for name in strategies.entries() if any(name == key[1] for key in found)]
    rows = [[name, *(found.get((name, column), "n/a") for column in columns)] for name in names]
    return markdown(["workload", *columns], rows)


def said(record: Record) -> str:
    """The differences of one check; before them whether any is beyond its tolerance, or why there are none."""
    facts = record.parity
    if facts is None:
        return f"{record.status}: {record.reason}"
    figures = " / ".join(figure(facts, name) for name in FIGURES)
    return figures if facts.passed else f"FAILED {figures}"


def figure(facts: ParityFacts, name: str) -> str:
    """The larger of the differences under the two optimizers."""
    values = list(getattr(facts, name).values())
    return "n/a" if not values or None in values else f"{max(values):.0e}"


def tolerances(records: Sequence[Record]) -> str:
    """What was allowed, in the order of the table's figures."""
    facts = next((record.parity for record in records if record.parity), None)
    if facts is None:
        return "Nothing is recorded."
    allowed = (facts.tolerance_loss, facts.tolerance_norm, facts.tolerance_parameters)
    return f"Tolerance: {' / '.join(f'{value:.0e}' for value in (*allowed, facts.tolerance_parameters))}."


@click.command(help=__doc__)
@click.option("--workload", default=",".join(workloads.FAMILIES), show_default=True)
@click.option("--strategy", default=",".join(STRATEGIES), show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/workload-parity"), show_default=True)
@click.option("--show", is_flag=True, help="Check nothing; print the table of the records in --results.")
def main(workload: str, strategy: str, precision: str, results: Path, show: bool) -> None:
    records = check(planned(workload.split(","), strategy.split(","), precision), results, show=show)
    print(table(records), tolerances(records), sep="\n\n")
    sys.exit(any(record.parity is None or not record.parity.passed for record in records))


if __name__ == "__main__":
    main()
