"""Joules over the timed window, from the readings of the machine's sensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.integrate import trapezoid

from scalebench.records.device import Quantity, SensorFacts
from scalebench.records.record import Record

from .steps import NANOSECONDS, host_windows, window

COUNTER, INTEGRAL = "energy counter", "integrated power"
UNREAD = "no sensor was read"
COARSEST = 0.1
"""Largest part of the window by which the readings around its ends, or two neighbouring ones, may lie apart."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules over the window and how they were obtained, or None and why not."""

    joules: float | None = None
    source: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sensing:
    """One sensor and the window on its host, in nanoseconds of the host's clock."""

    sensor: SensorFacts
    start_ns: int
    end_ns: int


def gpu_energy(record: Record) -> Energy:
    """Of the GPUs of all ranks together."""
    return total_energy(record, "gpu")


def cpu_energy(record: Record) -> Energy:
    """Of all CPU packages of the run's hosts together, whoever used them."""
    return total_energy(record, "cpu")


def total_energy(record: Record, kind: Literal["gpu", "cpu"]) -> Energy:
    """The sum over all devices of `kind`; unknown when one of them is."""
    parts = [energy_of(sensing) for sensing in sensed(record, kind)]
    missing = [part.reason for part in parts if part.joules is None]
    if not parts or missing:
        return Energy(reason=missing[0] if missing else UNREAD)
    sources = dict.fromkeys(part.source for part in parts if part.source)
    return Energy(joules=sum(part.joules for part in parts if part.joules), source=" and ".join(sources))


def joules_per_item(record: Record, energy: Energy) -> float | None:
    """Energy over the items (tokens, images) of the same time; None when either is unknown."""
    measured = window(record)
    if measured is None or measured.whole_items is None or energy.joules is None:
        return None
    return energy.joules / measured.whole_items


def sensed(record: Record, kind: Literal["gpu", "cpu"]) -> Iterator[Sensing]:
    """Each sensor of `kind`, a GPU that several ranks share once; none without a window."""
    windows, seen = host_windows(record), set[str]()
    for rank in record.ranks if windows else []:
        for sensor in rank.sensors:
            if sensor.kind == kind and sensor.uuid not in seen:
                seen |= {sensor.uuid} if sensor.uuid else set()
                start_ns, end_ns = windows[rank.host]
                yield Sensing(sensor=sensor, start_ns=start_ns, end_ns=end_ns)


def energy_of(sensing: Sensing) -> Energy:
    """Of one device over the window: from its counter, else from its power.

    Unknown when readings lie too far apart for the window, when the counter stands still or falls back, or when power
    is never above zero.
    """
    reasons = []
    for found in (from_counter(sensing), from_power(sensing)):
        if found.joules is not None:
            return found
        reasons.append(found.reason or "")
    told = [reason for reason in dict.fromkeys(reasons) if reason != UNREAD]
    return Energy(reason="; ".join(told) or UNREAD)


def from_counter(sensing: Sensing) -> Energy:
    """The counter's increase over the window, interpolated between the readings around each end."""
    times, millijoules = series(sensing.sensor, "energy_millijoules")
    reason = coarse(sensing, "energy_millijoules", every=False)
    if reason:
        return Energy(reason=reason)
    begin, end = np.interp([sensing.start_ns, sensing.end_ns], times, millijoules)
    if end <= begin or (np.diff(millijoules) < 0).any():
        return Energy(reason=f"the {COUNTER} stood still or fell")
    return Energy(joules=float(end - begin) / 1e3, source=COUNTER)


def from_power(sensing: Sensing) -> Energy:
    """Power over the window by the trapezoidal rule."""
    times, milliwatts = series(sensing.sensor, "power_milliwatts")
    reason = coarse(sensing, "power_milliwatts", every=True)
    if reason:
        return Energy(reason=reason)
    inside = (times > sensing.start_ns) & (times < sensing.end_ns)
    moments = np.concatenate(([sensing.start_ns], times[inside], [sensing.end_ns]))
    joules = float(trapezoid(np.interp(moments, times, milliwatts), moments)) * NANOSECONDS / 1e3
    return Energy(joules=joules, source=INTEGRAL) if joules > 0 else Energy(reason="power was never above zero")


def series(sensor: SensorFacts, quantity: Quantity) -> tuple[Floats, Floats]:
    """Times (ns) and values of the readings that succeeded, each of shape (readings,)."""
    pairs = zip(sensor.time_ns, sensor.readings.get(quantity, []), strict=False)
    known = np.array([pair for pair in pairs if pair[1] is not None], dtype=np.float64).reshape(-1, 2)
    return known[:, 0], known[:, 1]


def coarse(sensing: Sensing, quantity: Quantity, *, every: bool) -> str | None:
    """Why there are too few readings for the window, or None. `every`: the gaps inside it matter as its ends do."""
    times, _ = series(sensing.sensor, quantity)
    start, end = sensing.start_ns, sensing.end_ns
    if not len(times):
        return sensing.sensor.unavailable.get(quantity, UNREAD)
    if times[0] > start or times[-1] < end:
        return "the readings do not span the window"
    first, last = int(np.searchsorted(times, start, side="right")), int(np.searchsorted(times, end, side="left"))
    gaps = np.diff(times)[first - 1 : last]
    if max(gaps[0] + gaps[-1], gaps.max() if every else 0) <= COARSEST * (end - start):
        return None
    apart, long = gaps.max() * NANOSECONDS, (end - start) * NANOSECONDS
    return f"readings {apart:.2g} s apart are too coarse for a window of {long:.2g} s; time more --steps"
