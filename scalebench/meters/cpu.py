"""CPU time: of this process, and of everything on the host, so that what others took can be told; and what was
withheld."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

from scalebench.meters import cgroup

MAIN_THREAD = Path("/proc/self/schedstat")
HOST = Path("/proc/stat")


@dataclass(frozen=True, kw_only=True)
class CpuTimes:
    """Seconds, cumulative as `read_cpu_times` gives them; None where the system does not tell.

    Attributes:
        clock: CLOCK_MONOTONIC.
        own: CPU time of this process with its loader's workers.
        main: CPU time of its main thread. waited: for which that thread could have run but had no core.
        throttled: for which the quota of the control group held cores back, summed over cores.
        host_busy: CPU time of everything on the host.
        host_stolen: CPU time that the hypervisor gave to others while the host wanted it.
    """

    clock: float | None = None
    own: float | None = None
    main: float | None = None
    waited: float | None = None
    throttled: float | None = None
    host_busy: float | None = None
    host_stolen: float | None = None

    def since(self, earlier: CpuTimes) -> CpuTimes:
        """What was added from `earlier` to this reading."""
        pairs = {field.name: (getattr(self, field.name), getattr(earlier, field.name)) for field in fields(self)}
        return CpuTimes(**{name: None if None in pair else pair[0] - pair[1] for name, pair in pairs.items()})


def read_cpu_times() -> CpuTimes:
    """Now. Takes some ten microseconds, so it belongs beside the window, not between its steps."""
    (main, waited), (busy, stolen) = _main_thread_seconds(), _host_seconds()
    return CpuTimes(
        clock=time.monotonic(),
        own=time.process_time() + sum(_seconds_of(child.pid) for child in multiprocessing.active_children()),
        main=main,
        waited=waited,
        throttled=cgroup.throttled_seconds(),
        host_busy=busy,
        host_stolen=stolen,
    )


def _seconds_of(pid: int | None) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0  # it ended just now


def _main_thread_seconds() -> tuple[float | None, float | None]:
    """On a core, and waiting for one: the first fields as in the kernel's sched-stats.rst."""
    with contextlib.suppress(OSError, ValueError):
        ran, waited, turns = map(int, MAIN_THREAD.read_text().split())
        if turns:  # without accounting all three are 0
            return ran * 1e-9, waited * 1e-9
    return None, None


def _host_seconds() -> tuple[float | None, float | None]:
    """Busy (user, nice, system, irq and softirq) and stolen time over all CPUs: field meanings as in proc(5)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = [int(field) for field in HOST.read_text().split("\n", 1)[0].split()[1:]]
        user, nice, system, _idle, _iowait, irq, softirq, stolen = ticks[:8]
        tick = 1 / os.sysconf("SC_CLK_TCK")
        return (user + nice + system + irq + softirq) * tick, stolen * tick
    return None, None
