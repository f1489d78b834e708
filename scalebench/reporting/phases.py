"""Table of the phases of a step."""

from __future__ import annotations

import numpy as np

from scalebench.analysis.phases import PHASES, PhaseTime, phase_times

from .experiments import Experiment
from .table import Row, Table, place, table
from .text import figure, milliseconds, percent


def phases(experiment: Experiment) -> Table | None:
    """Milliseconds of each phase, its share of the step, and what the slowest rank takes where ranks differ."""
    rows: list[Row] = []
    for cell in experiment.measured:
        found = [times for record in cell.measured if (times := phase_times(record))]
        if found:
            whole = sum(float(np.mean([times[phase].mean for times in found])) for phase in PHASES)
            shown = {f"{phase}, ms": _shown([times[phase] for times in found], whole) for phase in PHASES}
            rows.append(place(experiment, cell) | {"strategy": experiment.names[cell]} | shown)
    notes = [
        "In five steps after the window: mean over steps, ranks and processes, and its share of the step; with several "
        "ranks, behind it, the fastest and the slowest rank's mean.",
        "Communication counts to the phase that waits for it; clipping, and what a backend gathers or reduces after "
        "the backward pass, to the optimizer.",
    ]
    return table("Phases of a step", rows, notes)


def _shown(times: list[PhaseTime], whole: float) -> str:
    mean = float(np.mean([time.mean for time in times]))
    text = f"{milliseconds(mean)} ({percent(mean / whole)})"
    fastest, slowest = (1e3 * float(np.mean([getattr(t, side) for t in times])) for side in ("fastest", "slowest"))
    return text if fastest == slowest else f"{text}, {figure(fastest, 3)} to {figure(slowest, 3)}"
