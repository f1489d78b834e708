"""Outcomes: the runs and steps behind each figure, what was left out and why, and how well one run knew its median."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from scalebench.analysis.instability import instabilities
from scalebench.analysis.scaling import BASELINE
from scalebench.analysis.steps import window
from scalebench.analysis.unsteady import precision_reached

from .experiments import Experiment
from .table import Table, place, table
from .tables import step_median
from .text import UNKNOWN, milliseconds, percent, plural, with_interval

ENDED = {
    "steps": "as many as asked",
    "precise": "precise",
    "max_seconds": "time was up",
    "ended": "the loop ended",
}


def outcomes(experiment: Experiment) -> Table | None:
    """A row per cell: runs, steps timed and left out, why timing ended, the precision reached, what speaks against it.

    Runs that were left out stand with their reasons in the table of what was not measured.
    """
    rows = []
    for cell in experiment.cells:
        windows = [measured for record in cell.measured if (measured := window(record))]
        widths = [width for record in cell.measured if (width := precision_reached(record)) is not None]
        rows.append(
            place(experiment, cell)
            | {
                "strategy": experiment.names[cell],
                "runs used": f"{len(cell.measured)} of {len(cell.records)}",
                "steps timed": spread(measured.steps for measured in windows),
                "warm-up steps": spread(record.window.first_step for record in cell.measured if record.window),
                "refill steps": spread(measured.whole_steps - measured.steps for measured in windows),
                "ended because": counted(ENDED[record.window.stopped] for record in cell.measured if record.window),
                "run's median known to": f"±{percent(max(widths))}" if widths else UNKNOWN,
                "instabilities": counted(one.kind for record in cell.measured for one in instabilities(record)),
            }
        )
    return table("Outcomes", rows, [*_baselines(experiment), *_explanations(experiment)])


def spread(counts: Iterable[int]) -> str:
    """`112`, `112 – 496` where they differ, n/a for none."""
    found = sorted(set(counts))
    return " – ".join(f"{count:,}" for count in dict.fromkeys((found[0], found[-1]))) if found else UNKNOWN


def counted(words: Iterable[str]) -> str:
    """`precise (3), time was up (2)`; `none` for no words."""
    return ", ".join(f"{word} ({count})" for word, count in Counter(words).items()) or "none"


def _baselines(experiment: Experiment) -> list[str]:
    """Absolute times of what others are compared with."""
    return [
        f"Baseline: {experiment.names[cell]} on {plural(1, experiment.unit)} in {cell.precision} takes "
        f"{with_interval(step_median(cell), milliseconds)} ms per step and does {with_interval(cell.throughput)} "
        f"{cell.item}/s."
        for cell in experiment.measured
        if cell.spec.strategy == BASELINE
    ]


def _explanations(experiment: Experiment) -> list[str]:
    runs = [record for cell in experiment.measured for record in cell.measured]
    told = "Not timed: warm-up, and refills of the pipeline after a pause between chunks of steps."
    if any(record.spec.warmup_steps is None for record in runs):
        told += " Warm-up ended when steps were steady (docs/steady-state.md)."
    return [told]
