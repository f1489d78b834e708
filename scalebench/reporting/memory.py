"""Tables of memory: peaks, and what they were filled with beside what the formulas say."""

from __future__ import annotations

from collections.abc import Callable

from scalebench.analysis.cells import Cell
from scalebench.analysis.memory import CATEGORIES, expected, fragmentation, largest, split
from scalebench.records.record import Record
from scalebench.theory.memory import Memory

from .experiments import Experiment
from .table import Row, Table, place, table
from .text import known, listing, percent, size

PEAKS = {
    "peak allocated": "allocated_peak",
    "peak reserved": "reserved_peak",
    "peak of tensors": "tensor_peak",
    "peak resident": "resident_peak",
}
HELD = ("parameters", "optimizer_state", "gradients")
"""What is known whatever the peak: kept between steps, and gradients when the update begins."""
MOMENTARY = tuple(name for name in CATEGORIES if name not in HELD)
SPLIT_NOTE = (
    "Measured (formula), in one step after the window. Parameters and optimizer state as kept between steps, gradients "
    "when the update begins; the others at the moment of the peak, where the formula has those of the fullest moment."
)
COMPILED_NOTE = "Compiled regions allocate where nobody can look: their peak and what it was filled with are n/a."


def peaks(experiment: Experiment) -> Table | None:
    """Peak memory of the fullest rank, and how its allocator got on."""
    rows = [
        place(experiment, cell)
        | {"strategy": experiment.names[cell]}
        | {title: known(_held(cell, kind), size) for title, kind in PEAKS.items()}
        | {"fragmentation": known(_most(cell, fragmentation), percent)}
        | {"allocation retries": known(_held(cell, "allocation_retries"), lambda count: f"{count:.0f}")}
        for cell in experiment.measured
    ]
    note = f"Per {experiment.unit}, of the fullest one."
    if experiment.unit == "process":
        note += " Resident memory includes the libraries; tensors are counted in one step after the window."
    return table("Memory", rows, [note])


def categories(experiment: Experiment) -> Table | None:
    """What the fullest rank's memory was for, measured and by formula."""
    rows: list[Row] = []
    for cell in experiment.measured:
        theory = next((found for record in cell.measured if (found := expected(record))), None)
        measured = {name: _held(cell, name) for name in HELD} | {name: _at_peak(cell, name) for name in MOMENTARY}
        shown = {name.replace("_", " "): _beside(value, theory, name) for name, value in measured.items()}
        shown["peak of tensors"] = _beside(_held(cell, "tensor_peak"), theory, "peak")
        rows.append(place(experiment, cell) | {"strategy": experiment.names[cell]} | shown)
    compiled = [COMPILED_NOTE] if any(cell.spec.compile for cell in experiment.measured) else []
    return table("Memory by category", rows, [SPLIT_NOTE, *compiled, *without_formula(experiment)])


def without_formula(experiment: Experiment) -> list[str]:
    """The strategies whose bytes and memory nobody has a formula of."""
    unknown = [experiment.names[cell] for cell in experiment.measured if not any(map(expected, cell.measured))]
    names = listing(list(dict.fromkeys(unknown))) if unknown else None
    return [f"No formula: what {names} does with its options is not known."] if names else []


def _beside(measured: float | None, theory: Memory | None, name: str) -> str:
    said = getattr(theory, name) if theory else None
    return known(measured, size) + (f" ({size(said)})" if said is not None else "")


def _held(cell: Cell, kind: str) -> float | None:
    return _most(cell, lambda record: largest(record, kind))


def _at_peak(cell: Cell, name: str) -> float | None:
    return _most(cell, lambda record: getattr(held, name) if (held := split(record)) else None)


def _most(cell: Cell, value: Callable[[Record], float | None]) -> float | None:
    """The largest over processes."""
    return max(cell.values(value), default=None)
