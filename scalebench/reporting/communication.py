"""Tables of what ranks exchange in a step: bytes beside the formula's, time hidden and exposed, speed by kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from scalebench.analysis.cells import Cell
from scalebench.analysis.communication import Bytes, Exposure, Speed, exchanged, expected, exposure, speeds
from scalebench.records.probe import Probe
from scalebench.records.record import Record

from .evidence import dtype_name
from .experiments import Experiment
from .memory import without_formula
from .table import Row, Table, place, table
from .text import UNKNOWN, figure, known, milliseconds, percent, size

Found = TypeVar("Found")

GIGA, MILLI = 1e9, 1e-3
EXCHANGE_NOTE = (
    "Per rank and step, measured (formula). Payload as torch hands it over (c10d); on the wire by the rings of "
    "{backend}. Flags and norms are left out."
)
TIME_NOTES = {
    "process": "Under way: gloo's threads work on a collective, or wait for another rank. Exposed: and no operator "
    "runs, so that Python's own time counts too; what is overlapped still takes turns on the same cores.",
    "GPU": "Under way: a kernel of NCCL runs, or waits for another rank. Exposed: and no other kernel runs.",
}
SPEED_NOTE = (
    "algbw is payload over time, busbw that times nccl-tests' factor; the time is that of the rank on which they took "
    "least, since the last to come waits for nobody."
)
PROBE_NOTE = (
    "Of the probe: the time by the probe's line of latency and bandwidth, nothing else going on, over the time here."
)
BANDWIDTHS: dict[str, tuple[str, Callable[[float], str]]] = {
    "time, ms": ("seconds", lambda value: figure(value / MILLI, 3)),
    "algbw, GB/s": ("algorithm_bandwidth", lambda value: figure(value / GIGA, 3)),
    "busbw, GB/s": ("bus_bandwidth", lambda value: figure(value / GIGA, 3)),
    "of the probe": ("of_probe", percent),
}


def exchange(experiment: Experiment) -> Table | None:
    """Bytes and time per step of each cell on several ranks; None where nothing was observed."""
    rows: list[Row] = []
    for cell in _observed(experiment):
        seen, said = _first(cell, exchanged), _first(cell, expected)
        rows.append(
            place(experiment, cell)
            | {
                "strategy": experiment.names[cell],
                "payload": _beside(seen, said, lambda found: found.payload),
                "on the wire": _beside(seen, said, lambda found: found.wire),
            }
            | _times([times for record in cell.measured if (times := exposure(record))])
        )
    backend = "NCCL" if experiment.unit == "GPU" else "gloo"
    notes = [EXCHANGE_NOTE.format(backend=backend), TIME_NOTES[experiment.unit]]
    return table("Communication", rows, [*notes, *without_formula(experiment), *_unknown(experiment)])


def collectives(experiment: Experiment, probes: Sequence[Probe]) -> Table | None:
    """Count, payload, time and bandwidth of each kind of collective."""
    rows: list[Row] = []
    for cell in _observed(experiment):
        kinds: dict[tuple[str, int, str], list[Speed]] = {}
        for speed in (speed for record in cell.measured for speed in speeds(record, probes)):
            kinds.setdefault((speed.kind, speed.ranks, speed.dtype), []).append(speed)
        name = place(experiment, cell) | {"strategy": experiment.names[cell]}
        rows += [name | _counts(found[0]) | _bandwidths(found) for found in kinds.values()]
    probed = any(row["of the probe"] != UNKNOWN for row in rows)
    return table("Collectives of a step", rows, [SPEED_NOTE, PROBE_NOTE] if probed else [SPEED_NOTE])


def _counts(speed: Speed) -> Row:
    return {
        "collective": speed.kind.replace("_", "-"),
        "over ranks": str(speed.ranks),
        "dtype": dtype_name(speed.dtype),
        "per step": str(speed.count),
        "payload": size(speed.payload_bytes),
    }


def _observed(experiment: Experiment) -> list[Cell]:
    """The measured cells in which anybody looked at communication."""
    return [
        cell
        for cell in experiment.measured
        if any(rank.communication for record in cell.measured for rank in record.ranks)
    ]


def _unknown(experiment: Experiment) -> list[str]:
    facts = [rank.communication for c in experiment.measured for record in c.measured for rank in record.ranks]
    reasons = {found.unknown_because for found in facts if found and found.unknown_because}
    return [f"Unknown of some run: {reason}." for reason in sorted(reasons)]


def _first(cell: Cell, of: Callable[[Record], Found | None]) -> Found | None:
    return next((found for record in cell.measured if (found := of(record))), None)


def _beside(seen: Bytes | None, said: Bytes | None, of: Callable[[Bytes], float]) -> str:
    return known(of(seen) if seen else None, size) + (f" ({size(of(said))})" if said else "")


def _times(found: Sequence[Exposure]) -> Row:
    """Means over processes."""
    if not found:
        return dict.fromkeys(("under way, ms", "overlapped, ms", "exposed, ms"), UNKNOWN)
    total, overlapped, exposed, step = (
        float(np.mean([getattr(times, name) for times in found])) for name in ("total", "overlapped", "exposed", "step")
    )
    return {
        "under way, ms": milliseconds(total),
        "overlapped, ms": milliseconds(overlapped),
        "exposed, ms": f"{milliseconds(exposed)} ({percent(exposed / step)} of the profiled step)",
    }


def _bandwidths(found: Sequence[Speed]) -> Row:
    """Medians over processes."""
    row = {}
    for title, (name, show) in BANDWIDTHS.items():
        values = [value for speed in found if (value := getattr(speed, name)) is not None]
        row[title] = show(float(np.median(values))) if values else UNKNOWN
    return row
