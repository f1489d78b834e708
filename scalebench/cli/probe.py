"""`scalebench probe`: what this machine can do, measured with the ranks that runs would have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalebench.cli.asking import Asked
from scalebench.cli.flags import Finite, request_flags
from scalebench.cli.run import DEFAULT_RESULTS
from scalebench.cli.tables import print_table
from scalebench.errors import EXIT_OK
from scalebench.machine import Machine, detect
from scalebench.matrix import Request, RequestError
from scalebench.matrix.ranks import placement_fields, rank_counts
from scalebench.spec import ProbeSpec

if TYPE_CHECKING:
    from scalebench.records.probe import Probe

SECONDS_PER_LAUNCH = 30.0
"""Enough for everything on two cores, and on a GPU."""

HELP = """Measure what this machine can do, and record it: a yardstick for every run made on it.

Rates of matrix products per number format, bandwidth of memory, latency and bandwidth of every collective and, on
GPUs, copies from and to the host: at 1, 2, 4 ... ranks, placed as a run's ranks are, all of them at once.
"""


def command(max_seconds: float | None, json_lines: bool, **flags: Any) -> int:
    """Carry out `scalebench probe`; returns its exit code."""
    asked = Asked(flags={name: value for name, value in flags.items() if value is not None}, table={})
    request = asked.request()
    machine = detect(request.device or "auto")
    try:
        specs = list(probe_specs(request, machine, max_seconds))
    except RequestError as error:
        raise asked.located(error) from None
    total = sum(spec.max_seconds for spec in specs)
    ranks = ", ".join(str(spec.world_size) for spec in specs)
    click.echo(f"probing {machine.device} at {ranks} ranks for {total:.0f} s at most", err=True)
    from scalebench.harness.probing import probe

    results = Path(request.results or DEFAULT_RESULTS)
    for found, path in probe(specs, results=results, start_method=request.start_method or "forkserver"):
        show(found, path, json_lines)
    return EXIT_OK


def probe_specs(request: Request, machine: Machine, max_seconds: float | None) -> Iterator[ProbeSpec]:
    """One launch per number of ranks (1, 2, 4 ... where none is asked for), threads and cores as a run would have them.

    Raises UserError for more ranks than the machine can hold.
    """
    counts = rank_counts(request.model_copy(update={"gpus": request.gpus or ("doubling",)}), machine)
    seconds = max_seconds / len(counts) if max_seconds else SECONDS_PER_LAUNCH
    for count in counts:
        yield ProbeSpec(world_size=count, max_seconds=seconds, **placement_fields(machine, counts[-1]))


def show(probe: Probe, path: Path, json_lines: bool) -> None:
    """Results on standard output."""
    from scalebench.reporting.probe import probe_tables

    if json_lines:
        click.echo(probe.model_dump_json())
        return
    for table in probe_tables([probe]):
        click.echo(f"\n{table.title}")
        print_table(list(table.frame.columns), table.frame.to_numpy().tolist())
        for note in table.notes:
            click.echo(note)
    click.echo(f"\nProbe: {path}")


probe = click.Command(
    "probe",
    callback=command,
    help=HELP,
    params=[
        *(flag for flag in request_flags() if flag.name in ("gpus", "device", "start_method", "results")),
        click.Option(
            ["--max-seconds"],
            type=Finite(min=0, min_open=True),
            metavar="SECONDS",
            help="Begin nothing more after this long.  [default: 30 for each number of ranks]",
        ),
        click.Option(["--json", "json_lines"], is_flag=True, help="Print each probe as a line of JSON instead."),
    ],
)
