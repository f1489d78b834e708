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
) -> list[RunSpec]:
    """The cells to measure, once what is open in `specs` is found (imports torch). Tells each trial and each finding.

    Stored trials count unless all is to be done `anew`. Raises UserError where nothing bounds the memory, and
    KeyboardInterrupt when a person stops it.
    """
    from scalebench.harness.runner import Session
    from scalebench.reporting.searches import findings
    from scalebench.search import driver
    from scalebench.search.start import room_bytes
    from scalebench.search.trials import Trials

    if any(room_bytes(spec) is None for spec in specs):
        raise UserError("nothing limits memory on this CPU. Say what a rank may have: --memory-limit 2GiB")
    session = Session(results, [PlannedRun(spec=spec) for spec in specs], machine, request.start_method or "forkserver")
    trials = Trials(session, None if anew else results, tell)
    found = driver.carry_out(search, specs, request, trials)
    for line in findings(trials.records.values()):
        click.echo(line, err=True)
    return found


def tell(trial: Record) -> None:
    """One trial and what became of it, on standard error."""
    from scalebench.reporting.searches import named
    from scalebench.terminal import duration

    spec = trial.spec
    ended = "fits" if trial.status == "ok" else f"{trial.status}: {trial.reason}"
    what = f"{spec.strategy}, {spec.world_size} ranks, {spec.precision}"
    click.echo(f"trial: {what}, {named(trial)}: {ended} ({duration(trial.wall_seconds)})", err=True)
