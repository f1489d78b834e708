"""The report's table of what frameworks cost over the raw backends that they wrap."""

from __future__ import annotations

from scalebench import strategies
from scalebench.analysis.cells import Cell
from scalebench.analysis.framework import framework_cost

from .experiments import Experiment
from .table import Table, place, table
from .text import times, with_interval


def framework_costs(experiment: Experiment) -> Table | None:
    """Each measured cell of a framework against its raw backend."""
    rows, remarks = [], dict[str, list[str]]()
    for cell, raw in _wrapping(experiment):
        cost = framework_cost(cell, experiment.cells, raw)
        rows.append(
            place(experiment, cell)
            | {
                "strategy": experiment.names[cell],
                "raw backend": raw,
                "time over the raw backend's": with_interval(cost.time_ratio.estimate, times),
                "peak memory over the raw backend's": with_interval(cost.memory_ratio.estimate, times),
            }
        )
        if remark := cost.time_ratio.reason or cost.time_ratio.caution:
            remarks.setdefault(remark, []).append(experiment.names[cell])
    notes = [f"Not compared ({remark}): {', '.join(names)}." for remark, names in remarks.items()]
    return table("What the framework costs", rows, notes)


def _wrapping(experiment: Experiment) -> list[tuple[Cell, str]]:
    """The cells of frameworks, with the raw strategy of each."""
    known = strategies.BUILTIN
    wraps = [(cell, known[cell.spec.strategy].wraps) for cell in experiment.measured if cell.spec.strategy in known]
    return [(cell, raw) for cell, raw in wraps if raw]
