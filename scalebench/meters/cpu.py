"""CPU time: of this process, and of everything on the host, so that what others took can be told."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, kw_only=True)
class CpuTimes:
    """Cumulative CPU seconds of this process with its loader's workers, and of the whole host; the latter None where
    unreadable."""

    own_seconds: float
    host_busy_seconds: float | None

    def since(self, earlier: CpuTimes) -> tuple[float, float | None]:
        """(own, host) seconds spent from `earlier` to this reading."""
        host = None
        if self.host_busy_seconds is not None and earlier.host_busy_seconds is not None:
            host = self.host_busy_seconds - earlier.host_busy_seconds
        return self.own_seconds - earlier.own_seconds, host


def read_cpu_times() -> CpuTimes:
    """Now. Takes some ten microseconds, so it belongs beside the window, not between its steps."""
    own_seconds = time.process_time() + sum(_seconds_of(child.pid) for child in multiprocessing.active_children())
    return CpuTimes(own_seconds=own_seconds, host_busy_seconds=_host_busy_seconds())


def _seconds_of(pid: int | None) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0  # it ended just now


def _host_busy_seconds() -> float | None:
    """User, nice, system, irq and softirq time over all CPUs: field meanings as in proc(5)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return None
