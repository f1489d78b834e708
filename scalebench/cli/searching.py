"""What `scalebench run` does where something is left to a search: trials before the measurement, told one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalebench.errors import UserError
from scalebench.machine import Machine
from scalebench.matrix import Request, Search
from scalebench.spec import PlannedRun, RunSpec

if TYPE_CHECKING:
    from scalebench.records.record import Record


def carry_out(
    search: Search, specs: Sequence[RunSpec], request: Request, machine: Machine, results: Path, *, anew: bool
) -> tuple[list[RunSpec], list[str]]:
    """The cells to measure, once what is open in `specs` is found (imports torch), and the findings. Tells each trial.

    Stored trials count unless all is to be done `anew`. Raises UserError for data that do not fill the smallest cell
    and where nothing bounds the memory, KeyboardInterrupt when a person stops it.
    """
    from scalebench.harness.runner import Session, check_data
    from scalebench.harness.stop import stoppable
    from scalebench.reporting.searches import findings
    from scalebench.search import driver
    from scalebench.search.start import room_bytes
    from scalebench.search.trials import Trials

    if machine.device == "cpu" and any(room_bytes(spec) is None for spec in specs):
        raise UserError("nothing limits memory on this CPU. Say what a rank may have: --memory-limit 2GiB")
    runs = [PlannedRun(spec=spec) for spec in specs]
    check_data(runs)
    session = Session(results, runs, machine, request.start_method or "forkserver")
    with stoppable() as stop:
        trials = Trials(session, None if anew else results, tell, stop)
        found = driver.carry_out(search, specs, request, trials)
    return found, findings(trials.records.values())


def tell(trial: Record) -> None:
    """One trial and what became of it, on standard error."""
    from scalebench.cli.progress import duration
    from scalebench.reporting.searches import ending, named
    from scalebench.reporting.text import plural

    spec = trial.spec
    what = f"{spec.strategy}, {plural(spec.world_size, 'rank')}, {spec.precision}"
    click.echo(f"trial: {what}, {named(trial)}: {ending(trial)} ({duration(trial.wall_seconds)})", err=True)
