"""Tables of the phases of a step, and of the ranks that wait for each other."""

from __future__ import annotations

from collections import Counter

import numpy as np

from scalebench.analysis.phases import PHASES, PhaseTime, phase_times
from scalebench.analysis.stragglers import Spread, spread

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


def ranks(experiment: Experiment) -> Table | None:
    """What the slowest rank and the others worked themselves, and which it was; None where no cell has two ranks."""
    rows: list[Row] = []
    for cell in experiment.measured:
        found = [one for record in cell.measured if (one := spread(record))]
        if found:
            rows.append(place(experiment, cell) | {"strategy": experiment.names[cell]} | _spread(found))
    notes = [
        "Own work in a step: on a CPU the time in which a rank ran or wanted to run, over the window; on a GPU a "
        "profiled step but for waiting in collectives. The others wait for the slowest; means over processes."
    ]
    return table("Slowest rank", rows, notes)


def _spread(found: list[Spread]) -> Row:
    slowest = Counter(one.slowest for one in found)
    return {
        "slowest rank": ", ".join(f"{rank} ({count} of {len(found)})" for rank, count in slowest.most_common()),
        "its own work, ms": milliseconds(float(np.mean([one.seconds[one.slowest] for one in found]))),
        "the others', ms": milliseconds(float(np.mean([one.others for one in found]))),
        "they wait, ms": milliseconds(float(np.mean([one.waited for one in found]))),
    }


def _shown(times: list[PhaseTime], whole: float) -> str:
    mean = float(np.mean([time.mean for time in times]))
    text = f"{milliseconds(mean)} ({percent(mean / whole)})"
    fastest, slowest = (1e3 * float(np.mean([getattr(t, side) for t in times])) for side in ("fastest", "slowest"))
    return text if fastest == slowest else f"{text}, {figure(fastest, 3)} to {figure(slowest, 3)}"
