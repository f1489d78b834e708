"""The report: the answer first, then tables and plots, from records alone. The same records give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scalebench.analysis.cells import ordered
from scalebench.analysis.probe import by_machine
from scalebench.records.probe import Probe
from scalebench.records.record import Record

from . import bottleneck, communication, device, evidence, memory, phases, tables
from .answers import answers
from .environment import environment_table, sessions_line
from .experiments import Experiment, experiments, hardware, hardware_name
from .frameworks import framework_costs
from .loading import data_loading
from .markdown import bullets, heading, image, markdown_table
from .outcomes import outcomes
from .own_best import own_best
from .plots import drawing_settings, save, write_plots
from .probe import probe_tables
from .probe_plots import probe_plots
from .rules_of_thumb import rules_of_thumb
from .searches import search_table
from .table import Table
from .training import seeds_table, training_table
from .training_plots import copied_sheets, curves, families
from .utilisation import NO_FORMULA, utilisation

REPORT_NAME = "report.md"
TITLE = "scalebench report"
NO_CONTRACT = "Contract: n/a, nothing was observed on the running models."


def write_report(
    records: Iterable[Record],
    folder: Path,
    damaged: Sequence[str] = (),
    probes: Iterable[Probe] = (),
    homes: Mapping[str, Path] | None = None,
) -> Path:
    """Write `report.md` and its plots (PNG) into `folder`, and return the report's path. Raises OSError.

    `damaged` are lines on files that could not be read; the report lists them, and shows what the `probes` found.
    `homes` says in which folder the records of a session are, and the pictures beside them, which are copied.
    """
    ran = ordered(records)
    found, probed = experiments(ran), list(probes)
    folder.mkdir(parents=True, exist_ok=True)
    plots = {experiment: write_plots(experiment, folder) for experiment in found}
    path = folder / REPORT_NAME
    parts = [
        heading(1, TITLE),
        *_runs(ran, found, plots, probed),
        *_trainings(ran, folder, homes or {}),
        *_probes(probed, folder),
        *_sources(ran, damaged),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _runs(
    records: Sequence[Record],
    found: Sequence[Experiment],
    plots: dict[Experiment, list[tuple[str, str]]],
    probes: Sequence[Probe],
) -> Iterable[str]:
    if not records:
        return
    parity = [record for record in records if record.kind == "parity"]
    best = own_best(records)
    yield from _answer([*found, *(experiment for experiment, _ in best)], parity)
    for experiment in found:
        yield from _experiment(experiment, parity, plots[experiment], probes)
    for experiment, made in best:
        yield heading(2, experiment.title)
        yield from _section(made, level=3)
    yield from _section(search_table(records))
    yield from _section(rules_of_thumb(found))
    yield from _section(evidence.parity(parity))
    if not parity:
        yield "Parity: n/a, no parity check is among these records."


def _trainings(records: Sequence[Record], folder: Path, homes: Mapping[str, Path]) -> Iterable[str]:
    """What each training came to: the table, the curves, what it generated."""
    yield from _section(training_table(records))
    yield from _section(seeds_table(records))
    for number, (title, family) in enumerate(families(records).items(), 1):
        with drawing_settings():
            plot = curves(title, family)
            if plot:
                yield image(f"Curves: {title}", save(plot, folder, f"training-{number}"))
        for record, _, facts in family:
            for caption, file_name in copied_sheets(record, facts, homes, folder):
                yield image(caption, file_name)


def _probes(probes: Iterable[Probe], folder: Path) -> Iterable[str]:
    """What each probed machine can do."""
    for number, machine in enumerate(by_machine(probes), 1):
        names = [name for probe in machine for name in probe.device_names]
        hardware = hardware_name(machine[0].spec.device, names, machine[0].environment)
        yield heading(2, f"What the machine can do: {hardware}")
        for made in probe_tables(machine):
            yield from _section(made, level=3)
        with drawing_settings():
            for name, plot in probe_plots(machine, hardware).items():
                yield image(f"{name.capitalize()}: {hardware}", save(plot, folder, f"probe-{number}-{name}"))


def _sources(records: Sequence[Record], damaged: Sequence[str]) -> Iterable[str]:
    yield from _section(environment_table(records))
    if records:
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


def _experiment(
    experiment: Experiment, parity: Sequence[Record], plots: Sequence[tuple[str, str]], probes: Sequence[Probe]
) -> Iterable[str]:
    yield heading(2, experiment.title)
    yield from _section(tables.speed(experiment, parity), level=3)
    yield from _section(tables.scaling(experiment), level=3)
    for title, file_name in plots:
        yield image(title, file_name)
    yield from _section(bottleneck.limits(experiment, probes), level=3)
    yield from _section(utilisation(experiment, probes), level=3, otherwise=[NO_FORMULA])
    yield from _section(memory.peaks(experiment), level=3)
    yield from _section(memory.categories(experiment), level=3)
    yield from _section(tables.precision(experiment), level=3)
    yield from _section(framework_costs(experiment), level=3)
    yield from _section(phases.phases(experiment), level=3)
    yield from _section(phases.ranks(experiment), level=3)
    yield from _section(communication.exchange(experiment), level=3)
    yield from _section(communication.collectives(experiment, probes), level=3)
    yield from _section(data_loading(experiment), level=3)
    yield from _section(device.energy(experiment), level=3, otherwise=device.unknown_energy(experiment))
    yield from _section(device.gpus(experiment), level=3)
    yield from _section(device.network(experiment), level=3, otherwise=[device.unknown_network(experiment)])
    yield from _section(evidence.contracts(experiment), level=3, otherwise=[NO_CONTRACT])
    yield from _section(evidence.unmatched(experiment), level=3)
    yield from _section(outcomes(experiment), level=3)
    yield from _section(evidence.not_measured(experiment), level=3)


def _section(table: Table | None, level: int = 2, otherwise: Iterable[str] = ()) -> Iterable[str]:
    """The table under its title; where there is none, `otherwise`."""
    if table is None:
        yield from otherwise
    else:
        yield heading(level, table.title)
        yield markdown_table(table)
