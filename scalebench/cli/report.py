"""`scalebench report`: the answer, the tables and the plots, from records alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalebench.errors import UserError

if TYPE_CHECKING:
    from scalebench.records.probe import Probe
    from scalebench.records.record import Record
    from scalebench.records.store import LoadResult


@click.command()
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    metavar="DIR",
    help="Folder of records (or one record).",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write report.md and its plots.  [default: the folder `report` beside the records]",
)
@click.option(
    "--session", "sessions", multiple=True, metavar="NAME", help="Only records of this session; may be repeated."
)
def report(results: Path, output: Path | None, sessions: tuple[str, ...]) -> None:
    """Write a report of what was measured: the answer first, then tables and plots.

    Prints the answer and the report's path. Damaged records are listed and left out.
    """
    from scalebench.records.store import load_records
    from scalebench.reporting import answer

    loaded = load_records(results)
    damaged = [f"{path}: {reason}" for path, reason in loaded.damaged]
    for line in damaged:
        click.echo(f"damaged, left out: {line}", err=True)
    records = _chosen(loaded, results, sessions)
    folder = output or (results if results.is_dir() else results.parent) / "report"
    for line in [*answer(records), ""]:
        click.echo(line)
    homes = {record.session: path.parent for record, path in zip(loaded.records, loaded.paths, strict=True)}
    click.echo(_write(records, folder, damaged, loaded.probes, homes))


def _chosen(loaded: LoadResult, results: Path, sessions: tuple[str, ...]) -> list[Record]:
    """The records to report. Raises UserError when there are none."""
    if loaded.damaged and not loaded.records and not loaded.probes:
        raise UserError(
            f"none of the {len(loaded.damaged)} files in '{results}' is a readable record. Measure: scalebench run"
        )
    if not loaded.records and not loaded.probes:
        raise UserError(
            f"'{results}' holds no records. Measure first: scalebench run, or give another folder: --results DIR"
        )
    known = sorted({record.session for record in loaded.records})
    unknown = [session for session in sessions if session not in known]
    if unknown:
        raise UserError(f"no session '{unknown[0]}' in '{results}'. Its sessions: {', '.join(known)}.")
    return [record for record in loaded.records if not sessions or record.session in sessions]


def _write(
    records: list[Record], folder: Path, damaged: list[str], probes: list[Probe], homes: dict[str, Path]
) -> Path:
    """Write the report and return its path. Raises UserError when `folder` cannot be written."""
    from scalebench.reporting.report import write_report

    try:
        return write_report(records, folder, damaged, probes, homes)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the report cannot be written to '{folder}': {reason}. Choose another: --output") from error
