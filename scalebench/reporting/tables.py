"""The report's tables, as DataFrames of text made from one experiment's cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scalebench.analysis.cells import Cell, Comparison
from scalebench.analysis.precision import precision_gain
from scalebench.analysis.scaling import IS_BASELINE, against_itself, against_single
from scalebench.analysis.steps import data_wait_share, window
from scalebench.records.record import Record
from scalebench.stats.intervals import Estimate, geometric_mean
from scalebench.stats.within_run import median_interval

from .answers import group_ranking
from .evidence import contract_in_short, parity_in_short
from .experiments import Experiment
from .table import Table, place, table
from .text import Show, known, milliseconds, percent, times, with_interval

LEFT_OUT = "unreadable, left out)"
"""How the name of data ends of which some were (scalebench.data.corrupt)."""


def speed(experiment: Experiment, parity: Sequence[Record]) -> Table | None:
    """Throughput, per rank, step time, contract and parity of each measured cell; a group's shown winner in bold."""
    winners = {
        cell
        for group in experiment.groups()
        if (ranking := group_ranking(experiment, group))
        for cell in group
        if experiment.names[cell] == ranking.winner
    }
    item, unit = experiment.cells[0].item, experiment.unit
    rows = []
    for cell in experiment.measured:
        name, rate = experiment.names[cell], cell.throughput
        rows.append(
            place(experiment, cell)
            | {
                "strategy": f"**{name}**" if cell in winners else name,
                f"{item}/s": with_interval(rate),
                f"{item}/s per {unit}": known(rate.value / cell.spec.world_size if rate else None),
                "step median, ms": with_interval(step_median(cell), milliseconds),
                "step p95, ms": with_interval(_bare(cell.estimate(_step_p95)), milliseconds),
                "data wait": with_interval(_mean(cell, data_wait_share), percent),
                "parameters / compute / reduce / state": contract_in_short(cell),
                "parity": parity_in_short(cell, parity),
                "n": str(len(cell.measured)),
            }
        )
    return table("Speed", rows, _speed_notes(experiment))


def _speed_notes(experiment: Experiment) -> list[str]:
    notes = ["[a – b]: 95% interval of the mean over n fresh processes (Student's t on logarithms)."]
    if any(len(cell.measured) == 1 for cell in experiment.measured):
        notes.append("n = 1: the interval of the step time knows this run only; nothing can be ranked (--repeats 5).")
    facts = [record.workload for cell in experiment.measured for record in cell.measured]
    notes += [f"Data: {name}." for name in sorted({one.data_name for one in facts if one}) if name.endswith(LEFT_OUT)]
    skipped = [
        experiment.names[cell] for cell in experiment.measured if any(r.ranks[0].skipped_steps for r in cell.measured)
    ]
    if skipped:
        notes.append(f"Loss scaling skipped steps of {', '.join(dict.fromkeys(skipped))}; they count as steps here.")
    return notes


def scaling(experiment: Experiment) -> Table | None:
    """Speedup and efficiency of each measured cell against `single` and against itself on one rank."""
    if all(cell.spec.world_size == 1 for cell in experiment.measured):
        return None
    kind, rows, remarks = experiment.cells[0].spec.scaling, [], dict[str, list[str]]()
    for cell in experiment.measured:
        name, ranks = experiment.names[cell], cell.spec.world_size
        single, own = against_single(cell, experiment.cells), against_itself(cell, experiment.cells)
        rows.append(
            place(experiment, cell)
            | {
                "strategy": name,
                "speedup over single": _compared(single.speedup, times),
                f"{kind} efficiency": _compared(single.efficiency, percent),
                f"{kind} efficiency against itself on 1 {experiment.unit}": _compared(own.efficiency, percent),
            }
        )
        remark = f"† {single.speedup.caution}" if single.speedup.caution else single.speedup.reason
        if remark and remark != IS_BASELINE:
            remarks.setdefault(remark, []).append(f"{name} ({ranks}, {cell.precision})")
    notes = [f"{remark[0].upper()}{remark[1:]}: {', '.join(names)}." for remark, names in remarks.items()]
    return table(f"{kind.capitalize()} scaling", rows, notes)


def precision(experiment: Experiment) -> Table | None:
    """What each 16-bit precision gains over fp32 of the same cell."""
    gains = [(cell, gain) for cell in experiment.measured if (gain := precision_gain(cell, experiment.cells))]
    rows = [
        place(experiment, cell)
        | {
            "strategy": experiment.names[cell],
            "speed over fp32": _compared(gain.speedup, times),
            "peak memory over fp32": known(
                gain.memory_ratio.estimate.value if gain.memory_ratio.estimate else None, times
            ),
        }
        for cell, gain in gains
    ]
    compared = any(gain.speedup.estimate or gain.memory_ratio.estimate for _, gain in gains)
    return table("Precision", rows) if compared else None


def step_median(cell: Cell) -> Estimate | None:
    """Median job step in seconds: over processes with the interval between them, of one process within the run only."""
    series = [w.step_seconds for record in cell.measured if (w := window(record)) and w.step_seconds is not None]
    if len(series) == 1:
        return median_interval(series[0])
    return geometric_mean([float(np.median(steps)) for steps in series]) if series else None


def _compared(comparison: Comparison, show: Show) -> str:
    if comparison.reason == IS_BASELINE:
        return IS_BASELINE
    return with_interval(comparison.estimate, show) + (" †" if comparison.caution else "")


def _step_p95(record: Record) -> float | None:
    measured = window(record)
    return (
        None if measured is None or measured.step_seconds is None else float(np.quantile(measured.step_seconds, 0.95))
    )


def _mean(cell: Cell, value: Callable[[Record], float | None]) -> Estimate | None:
    """Arithmetic mean of a share, which may be 0, over processes."""
    values = cell.values(value)
    return Estimate(value=float(np.mean(values)), processes=len(values)) if values else None


def _bare(estimate: Estimate | None) -> Estimate | None:
    return None if estimate is None else Estimate(value=estimate.value, processes=estimate.processes)
