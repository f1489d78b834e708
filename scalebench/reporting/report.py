"""The report: the answer first, then tables and plots, from records alone. The same records give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from scalebench.analysis.cells import ordered
from scalebench.records.record import Record

from . import device, evidence, phases, tables
from .answers import answers
from .environment import environment_table, sessions_line
from .experiments import Experiment, experiments, hardware
from .loading import data_loading
from .markdown import bullets, heading, image, markdown_table
from .plots import write_plots
from .rules_of_thumb import rules_of_thumb
from .table import Table

REPORT_NAME = "report.md"


def write_report(records: Iterable[Record], folder: Path, damaged: Sequence[str] = ()) -> Path:
    """Write `report.md` and its plots (PNG) into `folder`, and return the report's path. Raises OSError.

    `damaged` are lines on files that could not be read; the report lists them.
    """
    ran = ordered(records)
    found = experiments(ran)
    folder.mkdir(parents=True, exist_ok=True)
    plots = {experiment: write_plots(experiment, folder) for experiment in found}
    path = folder / REPORT_NAME
    path.write_text("\n\n".join(_parts(ran, found, plots, damaged)) + "\n", encoding="utf-8")
    return path


def _parts(
    records: Sequence[Record],
    found: Sequence[Experiment],
    plots: dict[Experiment, list[tuple[str, str]]],
    damaged: Sequence[str],
) -> Iterable[str]:
    parity = [record for record in records if record.kind == "parity"]
    yield heading(1, "scalebench report")
    yield from _answer(found, parity)
    for experiment in found:
        yield from _experiment(experiment, parity, plots[experiment])
    yield from _section(rules_of_thumb(found))
    yield from _section(evidence.parity(parity))
    if not parity:
        yield "Parity: n/a, no parity check is among these records."
    yield from _section(environment_table(records))
    yield sessions_line(records)
    if damaged:
        yield heading(2, "Damaged files, left out")
        yield bullets(list(damaged))


def _answer(found: Sequence[Experiment], parity: Sequence[Record]) -> Iterable[str]:
    for experiment, given in zip(found, answers(found), strict=True):
        yield f"**{given.title}** ({hardware(experiment.cells[0])})"
        yield bullets(given.lines + given.cautions)
    failed = evidence.parity_failures(parity)
    if failed:
        yield bullets(failed)


def _experiment(experiment: Experiment, parity: Sequence[Record], plots: Sequence[tuple[str, str]]) -> Iterable[str]:
    yield heading(2, experiment.title)
    yield from _section(tables.speed(experiment, parity), level=3)
    yield from _section(tables.scaling(experiment), level=3)
    for title, file_name in plots:
        yield image(title, file_name)
    yield from _section(tables.memory(experiment), level=3)
    yield from _section(tables.precision(experiment), level=3)
    yield from _section(phases.phases(experiment), level=3)
    yield from _section(data_loading(experiment), level=3)
    energy = device.energy(experiment)
    yield from _section(energy, level=3)
    if energy is None:
        yield from device.unknown_energy(experiment)
    yield from _section(device.gpus(experiment), level=3)
    yield from _section(device.network(experiment), level=3)
    contracts = evidence.contracts(experiment)
    yield from _section(contracts, level=3)
    if contracts is None:
        yield "Contract: n/a, nothing was observed on the running models."
    yield from _section(evidence.unmatched(experiment), level=3)
    yield from _section(evidence.not_measured(experiment), level=3)


def _section(table: Table | None, level: int = 2) -> Iterable[str]:
    if table is not None:
        yield heading(level, table.title)
        yield markdown_table(table)
