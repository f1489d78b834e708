"""The control group that this process is in, version 1 or 2: its limits, what its quota cost, whom the kernel killed.

None where there is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
THROTTLED = {"throttled_usec": 1e-6, "throttled_time": 1e-9}
"""What versions 2 and 1 call the time for which a quota held cores back, and its unit in seconds."""
NO_LIMIT = 1 << 60
"""Version 1 writes "no limit" as a huge number of bytes."""


def cpu_quota() -> float | None:
    """Cores' worth of CPU time that the group may use."""
    quotas = [int(words[0]) / int(words[1]) for words in map(str.split, _read("", "cpu.max")) if words[0] != "max"]
    for folder in _folders("cpu"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def throttled_seconds() -> float | None:
    """How long the quotas of this group and of those above it have held cores back so far, summed over cores."""
    seconds = [
        int(value) * THROTTLED[name]
        for folder in (*_folders(""), *_folders("cpu"))
        for name, value in _pairs(folder / "cpu.stat")
        if name in THROTTLED
    ]
    return sum(seconds) if seconds else None


def free_bytes() -> int | None:
    """Bytes that the group may still allocate before its limit; page cache that can be dropped counts as free."""
    rooms = []
    for folder in (*_folders(""), *_folders("memory")):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit and limit < NO_LIMIT and used is not None:
            rooms.append(max(0, limit - used + _droppable(folder)))
    return min(rooms, default=None)


def memory_limit_bytes() -> int | None:
    """Bytes that the group, or one above it, may hold."""
    limits = (
        _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        for folder in (*_folders(""), *_folders("memory"))
    )
    return min((limit for limit in limits if limit and limit < NO_LIMIT), default=None)


def oom_kills() -> int | None:
    """Processes of the group that the kernel has killed for want of memory; of the machine, where no group counts."""
    for path in (
        *(folder / "memory.events" for folder in _folders("")),
        *(folder / "memory.oom_control" for folder in _folders("memory")),
        Path("/proc/vmstat"),
    ):
        for name, value in _pairs(path):
            if name == "oom_kill":
                return int(value)
    return None


def free_processes() -> int | None:
    """Threads that the group may still start."""
    rooms = []
    for folder in (*_folders(""), *_folders("pids")):
        limit, used = _number(folder / "pids.max"), _number(folder / "pids.current")
        if limit is not None and used is not None:
            rooms.append(limit - used)
    return min(rooms, default=None)


def _droppable(folder: Path) -> int:
    return sum(int(value) for name, value in _pairs(folder / "memory.stat") if name == "inactive_file")


def _folders(controller: str) -> Iterator[Path]:
    """This process's group of a version 1 controller (`""`: of version 2) and all above it."""
    with contextlib.suppress(OSError):
        for line in MEMBERSHIP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                base = ROOT / controller if controller else ROOT
                group = base / path.lstrip("/")
                # In a container the path may be the host's, of which only the root is mounted.
                yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))


def _read(controller: str, name: str) -> Iterator[str]:
    for folder in _folders(controller):
        with contextlib.suppress(OSError):
            yield (folder / name).read_text()


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Name and value of each line."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, value = line.split()
            yield name, value


def _number(path: Path) -> int | None:
    """None for `max`, and for a file that is not there."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None
