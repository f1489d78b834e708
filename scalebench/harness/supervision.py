"""Watching the ranks of one launch until all have reported, one has failed, or nothing moves any more; and the end of
them all.

The launcher sleeps until a rank ends, and looks at the pulse a few times a second. When one fails the others, which
raise connection errors soon, get a moment to do so: the cause is what happened first. A launch in which no rank shows
a sign of life for as long as it may wait is over, one with a stopped rank sooner; neither waits for a process group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from scalebench.harness import cause
from scalebench.harness.job import RankFailure
from scalebench.harness.phase import Pulse
from scalebench.harness.rank import result_file, result_of
from scalebench.meters import cgroup

LOOK_SECONDS = 0.1
SETTLE_SECONDS = 1.0
"""How long the others may take to fail after the first did: a killed rank says nothing, and they speak before it is
missed."""
EXIT_SECONDS = 5.0
"""How long ranks that have reported may take to end."""
LEAD_SECONDS = 1.0
"""By how much the launcher's patience is shorter than the process groups', which do not know who they wait for. Of a
short one it is a tenth."""
STOPPED_SECONDS = 5.0
"""How long a rank may be stopped by a signal."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Supervised:
    """One rank's process as it was when last looked at.

    Attributes:
        result: what it reported, or its RankFailure; None as long as it has not.
        ended_ns: when it was noticed to have ended (CLOCK_MONOTONIC); None while it runs.
        resident: bytes of its resident set while it ran.
    """

    def __init__(self, rank: int, process: BaseProcess, folder: Path, pulse: Pulse) -> None:
        assert process.pid is not None, "it was started"
        self.rank = rank
        self.pid = process.pid
        self.process = process
        self.result: object = None
        self.ended_ns: int | None = None
        self.resident: int | None = None
        self.folder = folder
        self._pulse = pulse
        self._progress = pulse.of(rank)
        self._moved = time.monotonic()

    @property
    def progress(self) -> tuple[int, int]:
        """Phase and beats: how far it has come."""
        return self._pulse.of(self.rank)

    @property
    def phase(self) -> str:
        return self._pulse.phase(self.rank)

    @property
    def is_waited_for(self) -> bool:
        """Whether it has neither reported nor ended."""
        return self.result is None and self.ended_ns is None

    def look(self) -> None:
        """Note what has become of it."""
        if self.ended_ns is None and self.process.exitcode is not None:
            self.ended_ns = time.monotonic_ns()
        if self.result is None and result_file(self.folder, self.rank).exists():  # written before it ends
            self.result = result_of(self.folder, self.rank)
        if self.progress != self._progress:
            self._progress, self._moved = self.progress, time.monotonic()
        if self.ended_ns is None:
            self.resident = resident_bytes(self.pid) or self.resident

    def still_seconds(self) -> float:
        """How long it has shown no sign of life."""
        return time.monotonic() - self._moved

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        return False

    def failure(self) -> RankFailure | None:
        """How it failed; None while it runs and when it reported."""
        if isinstance(self.result, RankFailure):
            return self.result
        if self.result is not None or self.ended_ns is None:
            return None
        return cause.of_death(self.rank, self.process.exitcode or 0, self.ended_ns, self.folder)

    def kill(self) -> None:
        """Kill it and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.kill()


def resident_bytes(pid: int) -> int | None:
    """Resident set of a process."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return None


class Launch:
    """The ranks of one launch."""

    def __init__(self) -> None:
        self._ranks: list[Supervised] = []
        self._killed_before = cgroup.oom_kills()

    def add(self, rank: Supervised) -> None:
        """One more of them, which has been started."""
        self._ranks.append(rank)

    def results(self) -> list[Any]:
        """What each rank reported, by rank."""
        return [rank.result for rank in self._ranks]

    def watch(self, patience: float, tell: Callable[[str], None], stopping: Callable[[], bool]) -> RankFailure | None:
        """Return when every rank has reported (None), or with the first failure. `tell` hears rank 0's phases.

        `patience` is for how long, in seconds, no rank may move. Raises KeyboardInterrupt once `stopping` is true.
        """
        phase, failure = "", None
        while not failure and self._look() and not stopping():
            if self._ranks[0].phase != phase:
                phase = self._ranks[0].phase
                tell(phase)
            failure = self._failed() or self._stopped(patience) or self._hung(patience)
        failure = failure or self._failed()
        if stopping() and (failure or self._waited_for()):  # what fails then does so because of it
            raise KeyboardInterrupt
        return failure

    def end(self) -> None:
        """Leave no process of this launch. Those that have reported may end by themselves first."""
        deadline = time.monotonic() + EXIT_SECONDS
        while not self._waited_for() and self._alive() and time.monotonic() < deadline:
            wait([rank.process.sentinel for rank in self._alive()], deadline - time.monotonic())
        for rank in self._ranks:
            rank.kill()
        for rank in self._ranks:
            rank.process.join(EXIT_SECONDS)

    def _look(self) -> bool:
        """Sleep until a rank ends, or for a moment; whether any is still waited for."""
        wait([rank.process.sentinel for rank in self._waited_for()], LOOK_SECONDS)
        for rank in self._ranks:
            rank.look()
        return bool(self._waited_for())

    def _waited_for(self) -> list[Supervised]:
        return [rank for rank in self._ranks if rank.is_waited_for]

    def _alive(self) -> list[Supervised]:
        return [rank for rank in self._ranks if rank.process.exitcode is None]

    def _failed(self) -> RankFailure | None:
        """The first failure, if there is one, once the others have had time to tell theirs."""
        if not any(rank.failure() for rank in self._ranks):
            return None
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline and self._look():
            pass
        first = cause.first([failure for rank in self._ranks if (failure := rank.failure())])
        lacked = (cgroup.oom_kills() or 0) > (self._killed_before or 0)
        return cause.for_want_of_memory(first, self._ranks[first.rank].resident) if lacked else first

    def _stopped(self, patience: float) -> RankFailure | None:
        """A rank that a signal has stopped for too long."""
        limit = min(STOPPED_SECONDS, patience)
        for rank in self._waited_for():
            if rank.still_seconds() > limit and rank.is_stopped():
                said = f"by a signal, as SIGSTOP does, for {limit:g} s in the phase {rank.phase}"
                return RankFailure(rank=rank.rank, kind="Stopped", message=said)
        return None

    def _hung(self, patience: float) -> RankFailure | None:
        """The rank that the others wait for, when nobody has moved for too long."""
        waited_for = self._waited_for()
        lead = min(LEAD_SECONDS, patience / 10)
        if not waited_for or min(rank.still_seconds() for rank in waited_for) <= patience - lead:
            return None
        stacks = cause.ask_where({rank.rank: rank.pid for rank in waited_for}, waited_for[0].folder)
        guilty = cause.guilty({rank.rank: rank.progress for rank in waited_for}, stacks)
        where = cause.place_in(stacks.get(guilty, ""))
        said = f"no rank did anything for {patience:g} s in the phase {self._ranks[guilty].phase}"
        return RankFailure(
            rank=guilty,
            kind="Hung",
            message=f"{said}; it was in {where}" if where else said,
            traceback=stacks.get(guilty),
        )
