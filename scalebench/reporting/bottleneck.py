"""What limits each cell: one sentence in the report, every cause with its evidence in `scalebench explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scalebench.analysis.bottleneck import LEAST_SHARE, Explanation, explain
from scalebench.analysis.cells import Cell, items_per_second
from scalebench.records.probe import Probe
from scalebench.records.record import Record

from .answers import why_not_measured
from .experiments import Experiment
from .table import Table, place, table
from .text import UNKNOWN, milliseconds, percent, plural

CHEAPER = "--precision bf16, --compile, or faster hardware"
"""What makes computing itself faster."""
NOTE = "Of the process with the median speed. `scalebench explain CELL` shows the evidence, and the other causes."


def limits(experiment: Experiment, probes: Sequence[Probe] = ()) -> Table | None:
    """A row per cell: what limits it, and what to try."""
    rows = [
        place(experiment, cell)
        | {"strategy": experiment.names[cell], "what limits it": sentence(found), "to try": remedy(found)}
        for cell in experiment.measured
        if (found := explain(typical(cell), probes))
    ]
    return table("What limits each cell", rows, [NOTE])


def typical(cell: Cell) -> Record:
    """The process of median speed; of an even number of them the slower one in the middle."""
    by_speed = sorted(cell.measured, key=lambda record: items_per_second(record) or 0.0)
    return by_speed[(len(by_speed) - 1) // 2]


def sentence(found: Explanation) -> str:
    """`41.2% waits for data`."""
    if found.first is None:
        return f"nothing that could be judged takes {percent(LEAST_SHARE)}: it computes"
    return f"{percent(found.share(found.first))} {found.first.doing}"


def remedy(found: Explanation) -> str:
    """What to try against what is named first."""
    return found.first.remedy if found.first else CHEAPER


def in_one_line(experiment: Experiment, cell: Cell, probes: Sequence[Probe] = ()) -> str:
    """`fsdp on 2 processes, bf16: of a step of 12 ms, 41.2% waits for data. To try: --num-workers 4`."""
    found = explain(typical(cell), probes) if cell.measured else None
    if found is None:
        return f"{named(experiment, cell)}: n/a ({why_not_measured(cell)})"
    step = f"of a step of {milliseconds(found.step_seconds)} ms, {sentence(found)}"
    return f"{named(experiment, cell)}: {step}. To try: {remedy(found)}"


def explanation(experiment: Experiment, cell: Cell, probes: Sequence[Probe] = ()) -> Iterator[str]:
    """The cell in one line, then every cause with its evidence and remedy, then what could not be judged."""
    yield in_one_line(experiment, cell, probes)
    found = explain(typical(cell), probes) if cell.measured else None
    if found is None:
        return
    for limit in found.limits:
        share = found.share(limit)
        yield f"  {percent(share):>6}  {limit.cause}: {limit.evidence}"
        if share >= LEAST_SHARE:
            yield f"          to try: {limit.remedy}"
    for unknown in found.unknown:
        yield f"     {UNKNOWN}  {unknown.cause}: {unknown.reason}"
    record = typical(cell)
    if len(cell.measured) > 1:
        yield f"  Seen in repeat {record.repeat} of {record.session}, of median speed among {len(cell.measured)}."


def named(experiment: Experiment, cell: Cell) -> str:
    """`fsdp on 2 processes, bf16`."""
    return f"{experiment.names[cell]} on {plural(cell.spec.world_size, experiment.unit)}, {cell.precision}"
