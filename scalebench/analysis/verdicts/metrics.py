"""What of a cell is compared: figures of a record, and whether they are measured or counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalebench.analysis.cells import Value, items_per_second
from scalebench.analysis.communication import exchanged, exposure
from scalebench.analysis.energy import cpu_energy, gpu_energy, joules_per_item
from scalebench.analysis.memory import largest, peak
from scalebench.analysis.steps import window
from scalebench.records.record import Record

Kind = Literal["measured", "memory", "counted"]
Unit = Literal["seconds", "bytes", "joules", "count", "per second"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of one process group.

    Attributes:
        name: as it is called on the command line and in JSON. title: as it is called in tables.
        kind: `measured` figures vary from process to process and are tested; `counted` ones do not and are compared as
            they are; `memory` is compared as it is where the processes of each side agree, else tested.
        value: of a record, above 0; None where unknown. More is worse, unless `more_is_better`.
        batches: whether it is compared where both sides' steps hold as many samples, or where they do not; both by
            default.
        weight: its share, beside the others', of the chance of a false alarm.
    """

    name: str
    title: str
    kind: Kind
    unit: Unit
    value: Value
    more_is_better: bool = False
    batches: Literal["any", "equal", "unequal"] = "any"
    weight: float = 1.0

    @property
    def words(self) -> tuple[str, str]:
        """What to call a worse and a better one."""
        return ("slower", "faster") if self.unit in ("seconds", "per second") else ("more", "less")

    def positive(self, record: Record) -> float | None:
        """`value`, None also where it is 0: nothing to take a logarithm of."""
        return self.value(record) or None


def mean_step(record: Record) -> float | None:
    """Seconds of the window over its steps: what throughput is the reciprocal of."""
    measured = window(record)
    return measured.wall_seconds / measured.steps if measured else None


def median_step(record: Record) -> float | None:
    """Seconds of the median step; None where ranks share no clock."""
    measured = window(record)
    return None if measured is None or measured.step_seconds is None else float(np.median(measured.step_seconds))


def slow_step(record: Record) -> float | None:
    """Seconds of the step that 95% are faster than."""
    measured = window(record)
    return (
        None if measured is None or measured.step_seconds is None else float(np.quantile(measured.step_seconds, 0.95))
    )


def exposed_seconds(record: Record) -> float | None:
    """Seconds of a step in which ranks exchanged something and computed nothing."""
    times = exposure(record)
    return times.exposed if times else None


def collectives(record: Record) -> int | None:
    """Collectives of a step on the rank that has most; None where nobody looked."""
    seen = [sum(c.count for c in rank.communication.collectives) for rank in record.ranks if rank.communication]
    return max(seen) if seen and len(seen) == len(record.ranks) else None


def payload(record: Record) -> int | None:
    """Bytes of these."""
    seen = exchanged(record)
    return seen.payload if seen else None


PRIMARY = 10.0
"""Weight of what a cell is judged by: with three figures beside it, it keeps three quarters of the chance."""

METRICS: tuple[Metric, ...] = (
    Metric(
        name="step",
        title="step time",
        kind="measured",
        unit="seconds",
        value=mean_step,
        batches="equal",
        weight=PRIMARY,
    ),
    Metric(
        name="throughput",
        title="throughput",
        kind="measured",
        unit="per second",
        value=items_per_second,
        more_is_better=True,
        batches="unequal",
        weight=PRIMARY,
    ),
    Metric(name="median", title="median step", kind="measured", unit="seconds", value=median_step, batches="equal"),
    Metric(
        name="tail", title="95th percentile step", kind="measured", unit="seconds", value=slow_step, batches="equal"
    ),
    Metric(name="memory", title="peak memory", kind="memory", unit="bytes", value=peak),
    Metric(
        name="reserved-memory",
        title="reserved memory",
        kind="memory",
        unit="bytes",
        value=lambda record: largest(record, "reserved_peak"),
    ),
    Metric(  # a process starts with what the one before it in its line had mapped: equal runs of one side prove nothing
        name="host-memory",
        title="resident memory",
        kind="measured",
        unit="bytes",
        value=lambda record: largest(record, "resident_peak"),
    ),
    Metric(name="exposed", title="exposed communication", kind="measured", unit="seconds", value=exposed_seconds),
    Metric(
        name="gpu-energy",
        title="GPU energy per item",
        kind="measured",
        unit="joules",
        value=lambda record: joules_per_item(record, gpu_energy(record)),
    ),
    Metric(
        name="cpu-energy",
        title="CPU energy per item",
        kind="measured",
        unit="joules",
        value=lambda record: joules_per_item(record, cpu_energy(record)),
    ),
    Metric(name="payload", title="bytes exchanged", kind="counted", unit="bytes", value=payload),
    Metric(name="collectives", title="collectives", kind="counted", unit="count", value=collectives),
    Metric(
        name="flops",
        title="FLOPs of a rank",
        kind="counted",
        unit="count",
        value=lambda record: record.contract.flops_per_step if record.contract else None,
    ),
    Metric(
        name="parameters",
        title="parameters",
        kind="counted",
        unit="count",
        value=lambda record: record.workload.parameters if record.workload else None,
    ),
)
"""In the order of tables. A cell is judged by its step time; of steps of unequal batches, by throughput."""

NAMES = tuple(metric.name for metric in METRICS)
