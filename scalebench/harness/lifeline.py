"""Who died, and who must die: ranks follow their launcher into death, and the launcher learns how each rank ended.

A fork server outlives a parent that was killed for as long as any of its children lives, so the children must go first.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

POLL_SECONDS = 1.0


def attach(launcher_pid: int, folder: Path, rank: int) -> None:
    """Make this process a rank of a launch: it ends with its launcher and is known to it by its process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the launcher decides
    follow(launcher_pid)
    announce(folder, rank)


def follow(launcher_pid: int) -> None:
    """Kill this process as soon as the launcher is gone. The watching thread sleeps in the kernel and costs nothing."""
    threading.Thread(target=_kill_self_after, args=(launcher_pid,), name="lifeline", daemon=True).start()


def _kill_self_after(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        _wait_for_end(pid)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_end(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError) as error:
        if isinstance(error, ProcessLookupError):
            raise
        while True:  # No pidfd on this kernel: look now and then.
            os.kill(pid, 0)
            time.sleep(POLL_SECONDS)
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll()


def announce(folder: Path, rank: int) -> None:
    """Leave this rank's process id where `RankProcesses` looks for it."""
    (folder / f"pid-{rank}").write_text(str(os.getpid()))


class RankProcesses:
    """The processes of one launch, so that their exit codes can be read after the agent has ended them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[BaseProcess] = []

    def remember(self) -> None:
        """Note the children of this process. Called once, when every rank is up and none has ended yet."""
        self._children = list(multiprocessing.active_children())

    def exit_code(self, rank: int) -> int | None:
        """How `rank` ended: an exit code, minus a signal's number, or None when it was never seen."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._folder / f"pid-{rank}").read_text())
            return next((child.exitcode for child in self._children if child.pid == pid), None)
        return None
