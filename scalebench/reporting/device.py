"""Tables of what the sensors told: energy, the state of the GPUs, traffic of the network interfaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scalebench.analysis.cells import Cell
from scalebench.analysis.device import GpuState, Traffic, gpu_state, traffic, unread
from scalebench.analysis.energy import Energy, cpu_energy, gpu_energy, joules_per_item
from scalebench.records.device import Quantity
from scalebench.records.record import Record

from .experiments import Experiment
from .table import Row, Table, place, table
from .text import UNKNOWN, figure, known, listing, percent, size, with_interval

EnergyOf = Callable[[Record], Energy]

WORDS: dict[Quantity, str] = {
    "sm_clock_mhz": "SM clock",
    "memory_clock_mhz": "memory clock",
    "temperature_celsius": "temperature",
    "throttle_mask": "reasons for lower clocks",
    "utilisation_percent": "utilisation",
    "processes": "other processes",
}


def energy(experiment: Experiment) -> Table | None:
    """Joules per item of the GPUs and of the CPUs, and how they were obtained; None when nothing is known."""
    item = experiment.cells[0].item.removesuffix("s")
    kinds = {kind: of for kind, of in _kinds(experiment).items() if _known(experiment.measured, of)}
    rows = [
        place(experiment, cell)
        | {"strategy": experiment.names[cell]}
        | {f"{kind}, J/{item}": _per_item(cell, of) for kind, of in kinds.items()}
        | {f"{kind}, from": _sources(cell, of) for kind, of in kinds.items()}
        for cell in experiment.measured
        if kinds
    ]
    shared = ["The CPUs' energy is that of whole packages, whoever used them."] if "CPUs" in kinds else []
    return table("Energy", rows, [*unknown_energy(experiment), *shared])


def unknown_energy(experiment: Experiment) -> list[str]:
    """Whose energy is not known of some run, and why."""
    return [
        f"Energy of the {kind}: n/a, {reason}."
        for kind, of in _kinds(experiment).items()
        for reason in dict.fromkeys(of(record).reason for cell in experiment.measured for record in cell.measured)
        if reason
    ]


def gpus(experiment: Experiment) -> Table | None:
    """Power, clocks, temperature, throttling and neighbours: the mean over processes, of the worst GPU."""
    columns: dict[str, Callable[[Sequence[GpuState]], str]] = {
        "W per GPU": _mean(lambda state: state.watts),
        "SM clock, MHz": _mean(lambda state: state.sm_clock_mhz),
        "of the highest": _mean(lambda state: state.sm_clock_share, percent),
        "memory clock, MHz": _mean(lambda state: state.memory_clock_mhz),
        "hottest, °C": _mean(lambda state: state.temperature_celsius),
        "utilisation": _mean(lambda state: state.utilisation, percent),
        "clocks held back by": _throttled,
        "other processes": _mean(lambda state: state.other_processes),
    }
    states = {cell: [state for record in cell.measured if (state := gpu_state(record))] for cell in experiment.measured}
    rows = [
        place(experiment, cell)
        | {"strategy": experiment.names[cell]}
        | {title: show(found) for title, show in columns.items()}
        for cell, found in states.items()
        if found
    ]
    notes = ["Clocks and utilisation of the lowest GPU, temperature of the hottest.", *_unread(experiment)]
    return table("GPUs", rows, notes)


def _unread(experiment: Experiment) -> list[str]:
    """Which readings are not known of some run, and why."""
    reasons: dict[str, dict[str, None]] = {}
    for record in (record for cell in experiment.measured for record in cell.measured):
        for quantity, reason in unread(record).items():
            reasons.setdefault(reason, {}).setdefault(WORDS[quantity])
    return [f"Not known of some run: {listing(list(words))}, {reason}." for reason, words in reasons.items()]


def network(experiment: Experiment) -> Table | None:
    """Bytes per step through the busiest interface of a host; None when nothing was recorded."""
    rows: list[Row] = []
    for cell in experiment.measured:
        found = [moved for record in cell.measured if (moved := traffic(record))]
        if found:
            shown = {"strategy": experiment.names[cell], "interface": ", ".join({m.interface: None for m in found})}
            rows.append(place(experiment, cell) | shown | _moved(found))
    return table("Network", rows, ["Of the busiest interface of a host, everybody's traffic; lo is within the host."])


def unknown_network(experiment: Experiment) -> str:
    """Why there is no table of the network."""
    ranks = [rank for cell in experiment.measured for record in cell.measured for rank in record.ranks]
    read = any(rank.network and rank.network.interfaces for rank in ranks)
    return f"Network: n/a, {'nothing went through any interface' if read else 'no counters could be read'}."


def _moved(found: Sequence[Traffic]) -> Row:
    return {
        "sent per step": size(float(np.mean([moved.sent_per_step for moved in found]))),
        "received per step": size(float(np.mean([moved.received_per_step for moved in found]))),
    }


def _per_item(cell: Cell, of: EnergyOf) -> str:
    return with_interval(cell.estimate(lambda record: joules_per_item(record, of(record))))


def _sources(cell: Cell, of: EnergyOf) -> str:
    return ", ".join(dict.fromkeys(source for record in cell.measured if (source := of(record).source))) or UNKNOWN


def _kinds(experiment: Experiment) -> dict[str, EnergyOf]:
    """A run on CPUs has no GPU whose energy could be known."""
    return {"GPUs": gpu_energy, "CPUs": cpu_energy} if experiment.unit == "GPU" else {"CPUs": cpu_energy}


def _known(cells: Sequence[Cell], of: EnergyOf) -> bool:
    return any(of(record).joules is not None for cell in cells for record in cell.measured)


def _mean(
    value: Callable[[GpuState], float | None], show: Callable[[float], str] = figure
) -> Callable[[Sequence[GpuState]], str]:
    def mean(states: Sequence[GpuState]) -> str:
        values = [figure for state in states if (figure := value(state)) is not None]
        return known(float(np.mean(values)) if values else None, show)

    return mean


def _throttled(states: Sequence[GpuState]) -> str:
    told = [state.throttled for state in states if state.throttled is not None]
    worst = {name: max(one.get(name, 0.0) for one in told) for one in told for name in one}
    return ", ".join(f"{name} {percent(share)}" for name, share in worst.items()) or ("nothing" if told else UNKNOWN)
