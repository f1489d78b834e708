"""What the sensors' readings say of the machine in the timed window: clocks, throttling, neighbours, traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from scalebench.records.device import Quantity
from scalebench.records.record import Record

from .energy import Floats, Sensing, gpu_energy, sensed, series
from .steps import window

THROTTLE_REASONS = {
    0x1: "idle",
    0x2: "application clocks set",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "synchronised with a slower GPU",
    0x20: "thermal slowdown by the driver",
    0x40: "thermal slowdown by the hardware",
    0x80: "power brake",
    0x100: "display clock set",
}
"""NVML's bits (nvml.h, nvmlClocksEventReasons)."""
HELD_BACK = set(THROTTLE_REASONS.values()) - {"idle", "application clocks set", "display clock set"}
"""Reasons that nobody chose."""
NEVER_ZERO: frozenset[Quantity] = frozenset({"sm_clock_mhz", "memory_clock_mhz", "temperature_celsius"})
"""Quantities of which a reading of zero comes from a sensor that does not work."""


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """The GPUs of a run over its window; None for what no sensor told.

    Attributes:
        watts: mean power of one GPU.
        sm_clock_mhz, memory_clock_mhz: mean over readings, of the slowest GPU.
        sm_clock_share: that SM clock over the highest that GPU has.
        temperature_celsius: the hottest reading.
        utilisation: share of time in which some kernel ran, mean over readings, of the least busy GPU.
        throttled: per reason (idleness left out) the share of readings that gave it, on the GPU with the most.
        other_processes: compute processes on a rank's GPU beside the rank itself, the most at once.
    """

    watts: float | None
    sm_clock_mhz: float | None
    sm_clock_share: float | None
    memory_clock_mhz: float | None
    temperature_celsius: float | None
    utilisation: float | None
    throttled: dict[str, float] | None
    other_processes: int | None


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes per optimizer step through the busiest network interface, everybody's on that host."""

    interface: str
    sent_per_step: float
    received_per_step: float


def throttle_reasons(mask: int) -> list[str]:
    """The names of the bits in a `throttle_mask`; unknown bits by their value."""
    bits = [1 << position for position in range(mask.bit_length()) if mask >> position & 1]
    return [THROTTLE_REASONS.get(bit, f"reason {bit:#x}") for bit in bits]


def gpu_state(record: Record) -> GpuState | None:
    """None when the run used no GPU or has no window."""
    gpus, measured = list(sensed(record, "gpu")), window(record)
    if not gpus or measured is None:
        return None
    joules, slowest = gpu_energy(record).joules, _slowest(gpus)
    return GpuState(
        watts=None if joules is None else joules / measured.whole_seconds / len(gpus),
        sm_clock_mhz=slowest[0] if slowest else None,
        sm_clock_share=slowest[1] if slowest else None,
        memory_clock_mhz=min(_means(gpus, "memory_clock_mhz"), default=None),
        temperature_celsius=max((float(v.max()) for v in _inside(gpus, "temperature_celsius")), default=None),
        utilisation=min((mean / 100 for mean in _means(gpus, "utilisation_percent")), default=None),
        throttled=_throttled(_inside(gpus, "throttle_mask")),
        other_processes=_others(_inside(gpus, "processes")),
    )


def traffic(record: Record) -> Traffic | None:
    """Between the readings at the window's opening and end; None when none was recorded or nothing moved."""
    measured = window(record)
    steps = measured.whole_steps if measured else 0
    found = [
        Traffic(interface=name, sent_per_step=moved.sent / steps, received_per_step=moved.received / steps)
        for rank in record.ranks
        for name, moved in (rank.network.interfaces.items() if rank.network and steps else ())
        if moved.sent + moved.received > 0
    ]
    return max(found, key=lambda one: one.sent_per_step + one.received_per_step, default=None)


def unread(record: Record) -> dict[Quantity, str]:
    """Why a quantity of some GPU is not known over the window, but for energy and power (see `gpu_energy`)."""
    found: dict[Quantity, str] = {}
    for gpu in sensed(record, "gpu"):
        for quantity in get_args(Quantity)[2:]:
            if not len(_readings(gpu, quantity)):
                found.setdefault(quantity, gpu.sensor.unavailable.get(quantity, "no valid reading in the window"))
    return found


def _inside(gpus: Sequence[Sensing], quantity: Quantity) -> list[Floats]:
    """Each GPU's readings within the window; GPUs without any are left out."""
    return [values for gpu in gpus if len(values := _readings(gpu, quantity))]


def _readings(gpu: Sensing, quantity: Quantity) -> Floats:
    times, values = series(gpu.sensor, quantity)
    valid = values > 0 if quantity in NEVER_ZERO else values >= 0
    return values[(times >= gpu.start_ns) & (times <= gpu.end_ns) & valid]


def _means(gpus: Sequence[Sensing], quantity: Quantity) -> list[float]:
    return [float(values.mean()) for values in _inside(gpus, quantity)]


def _slowest(gpus: Sequence[Sensing]) -> tuple[float, float | None] | None:
    """The lowest mean SM clock, and its share of what that GPU can."""
    clocks = [
        (float(values.mean()), gpu.sensor.max_sm_clock_mhz)
        for gpu in gpus
        if len(values := _readings(gpu, "sm_clock_mhz"))
    ]
    if not clocks:
        return None
    clock, highest = min(clocks, key=lambda pair: pair[0])
    return clock, clock / highest if highest else None


def _throttled(masks: Sequence[Floats]) -> dict[str, float] | None:
    """None when no GPU told."""
    shares: dict[str, float] = {}
    for readings in masks:
        named = [set(throttle_reasons(int(mask))) - {THROTTLE_REASONS[0x1]} for mask in readings]
        for name in set().union(*named):
            shares[name] = max(shares.get(name, 0.0), float(np.mean([name in names for names in named])))
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))) if masks else None


def _others(processes: Sequence[Floats]) -> int | None:
    """None when NVML shows not even the ranks, as in some containers."""
    most = max((int(counts.max()) for counts in processes), default=0)
    return most - 1 if most else None
