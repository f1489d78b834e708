"""Why a launch failed: what happened first, and to whom."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scalebench.harness import shortage
from scalebench.harness.job import RankFailure
from scalebench.harness.rank import NO_ROOM, WHERE_ARE_YOU, log_file

SERVER_LOST = 255
"""What multiprocessing makes of a process whose fork server has died."""
BY_ITSELF = f"by signal {signal.SIGABRT:d} "
"""How a process ends itself, having said why, such as a failed assertion or NCCL's watchdog after a time-out."""
PEER_LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "Connection refused")
"""In the words of gloo, NCCL and the stores, when the other end of a connection has gone."""
LOG_TAIL = 4000
STACK_SECONDS = 1.0
COMMUNICATING = ("/torch/distributed/", "/deepspeed/", "/torch/autograd/graph.py")
"""Where ranks wait for each other: in the backward pass mostly below autograd's engine, under DeepSpeed anywhere in
it."""


def of_death(rank: int, code: int, at_ns: int, folder: Path) -> RankFailure:
    """A rank that ended with exit code `code` and left no word but its log."""
    if code == SERVER_LOST:
        kind, message = "Killed", "its fork server ended and took it along"
    elif code == NO_ROOM:
        kind, message = "Exited", f"it could not write into {folder.parent}: the disk is full, or the like"
    elif code < 0:
        kind, message = "Killed", f"by signal {-code} ({signal.Signals(-code).name})"
    else:
        kind, message = "Exited", f"with code {code} before it had a result"
    return RankFailure(rank=rank, kind=kind, message=message, traceback=last_words(folder, rank), at_ns=at_ns)


def last_words(folder: Path, rank: int) -> str | None:
    """The end of what `rank` wrote to its standard error; None when it wrote nothing."""
    with contextlib.suppress(OSError):
        return log_file(folder, rank, "stderr").read_text(errors="replace")[-LOG_TAIL:] or None
    return None


def first(failures: Sequence[RankFailure]) -> RankFailure:
    """The cause among failures of a moment: a death by a signal from outside, else the earliest that is no echo.

    A death is known when it is noticed, and by then its neighbours may have raised.
    """
    killed = [one for one in failures if one.kind == "Killed" and not one.message.startswith(BY_ITSELF)]
    own = [one for one in failures if not any(sign in one.message for sign in PEER_LOST)]
    return min(killed or own or failures, key=lambda failure: failure.at_ns)


def for_want_of_memory(failure: RankFailure, resident: int | None) -> RankFailure:
    """`failure` seen in the light of a kernel that has killed some process of this group for want of memory."""
    said = f"{failure.kind} {failure.message}"
    if not re.search(rf"by signal {signal.SIGKILL:d} |killed by signal|fork server", said):
        return failure
    return replace(
        failure,
        kind="OutOfMemory",
        message=f"the kernel killed it for want of memory ({said})",
        shortage=shortage.of_kill(resident),
    )


def ask_where(pids: Mapping[int, int], folder: Path) -> dict[int, str]:
    """Where the main threads of processes are, by rank, innermost call first; without those that do not answer."""
    files = {rank: log_file(folder, rank, "stack") for rank in pids}
    for pid in pids.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, WHERE_ARE_YOU)
    deadline = time.monotonic() + STACK_SECONDS
    while not all(map(_is_written, files.values())) and time.monotonic() < deadline:
        time.sleep(STACK_SECONDS / 20)
    return {rank: file.read_text(errors="replace") for rank, file in files.items() if _is_written(file)}


def guilty(progress: Mapping[int, tuple[int, int]], stacks: Mapping[int, str]) -> int:
    """The rank that the others wait for: the one that has come least far, else the one that is not communicating."""
    behind = [rank for rank, reached in progress.items() if reached[0] == min(progress.values())[0]]
    for rank in behind:
        innermost = stacks.get(rank, "").split("\n")[1:2]
        if not any(place in line for line in innermost for place in COMMUNICATING):
            return rank
    return behind[0]


def place_in(stack: str) -> str:
    """`file:line (function)` of the innermost call; empty when it is unknown."""
    found = re.search(r'File "(.+)", line (\d+) in (.+)', stack)
    return f"{found[1]}:{found[2]} ({found[3]})" if found else ""


def _is_written(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0
