"""Step-boundary clocks: one mark per step end, on the host for CPU runs and on the device for CUDA runs."""

from __future__ import annotations

import time
from typing import Literal, Protocol

import torch

RUN_AHEAD_STEPS = 2
"""Steps the host may be ahead of the GPU. Unbounded run-ahead would make the host queue, not the device, set the
pace."""


class Clock(Protocol):
    """Marks the end of each step without disturbing it; read out once, after the window."""

    kind: Literal["monotonic", "cuda-event"]

    def start(self) -> int:
        """Begin, everything before having finished on the device. Returns CLOCK_MONOTONIC in ns."""

    def mark(self) -> None:
        """The step just issued ends here."""

    def wait(self) -> None:
        """Return when the last mark has come."""

    def read_ns(self) -> list[int]:
        """Every mark as CLOCK_MONOTONIC ns. Waits for the device."""


class HostClock:
    """CLOCK_MONOTONIC, which all processes of one host share."""

    kind: Literal["monotonic", "cuda-event"] = "monotonic"

    def __init__(self) -> None:
        self._marks: list[int] = []

    def start(self) -> int:
        return time.monotonic_ns()

    def mark(self) -> None:
        self._marks.append(time.monotonic_ns())

    def wait(self) -> None: ...

    def read_ns(self) -> list[int]:
        return self._marks


class CudaClock:
    """CUDA events in the stream of the steps, anchored to the host's clock at the start.

    Event to event resolution is about 0.5 microseconds; times are summed from neighbour to neighbour, because one long
    elapsed time would lose it in a 32-bit float.
    """

    kind: Literal["monotonic", "cuda-event"] = "cuda-event"

    def __init__(self, run_ahead: int | None = RUN_AHEAD_STEPS) -> None:
        self._run_ahead = run_ahead
        self._events: list[torch.cuda.Event] = []
        self._start_ns = 0

    def start(self) -> int:
        self._record()
        self._events[0].synchronize()
        self._start_ns = time.monotonic_ns()
        return self._start_ns

    def mark(self) -> None:
        self._record()
        if self._run_ahead is not None and len(self._events) > self._run_ahead:
            self._events[-1 - self._run_ahead].synchronize()

    def wait(self) -> None:
        torch.cuda.synchronize()

    def read_ns(self) -> list[int]:
        self.wait()
        marks, now = [], float(self._start_ns)
        for before, after in zip(self._events, self._events[1:], strict=False):
            now += before.elapsed_time(after) * 1e6
            marks.append(round(now))
        return marks

    def _record(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)


def wall_ns() -> int:
    """A clock that marks are not read from: the hardware's count, which nothing adjusts and all processes of a host
    share."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def clock_for(device: torch.device, run_ahead: int | None = RUN_AHEAD_STEPS) -> Clock:
    """The clock of what runs on `device`. On CUDA the host may be `run_ahead` marks ahead, or any number (None)."""
    return CudaClock(run_ahead) if device.type == "cuda" else HostClock()
