"""Bottlenecks really put into runs: data that comes late, a rank that has more to do, a core that is shared, a quota of
CPU time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from scalebench.data.tokens import TokenSamples
from scalebench.harness import worker
from scalebench.harness.job import Job, Report

READ_SECONDS = 4e-3
CGROUP_V1, CGROUP_V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 50_000


def slow_reads(job: Job) -> Report:
    """A rank whose samples take `READ_SECONDS` each to come, as from a remote disk."""
    read = TokenSamples.__getitems__

    def slow(self: TokenSamples, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        time.sleep(READ_SECONDS * len(indices))
        return read(self, indices)

    with mock.patch.object(TokenSamples, "__getitems__", slow):
        return worker.main(job)


def uneven_work(job: Job) -> Report:
    """Ranks of which the last multiplies matrices in every forward pass, beside all else."""
    matrix = torch.ones(600, 600)
    loss_of = functional.cross_entropy

    def late(*args: Any) -> Tensor:
        for _ in range(5):
            matrix @ matrix
        return loss_of(*args)

    last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
    with mock.patch.object(functional, "cross_entropy", late) if last else contextlib.nullcontext():
        return worker.main(job)


@contextlib.contextmanager
def busy_core(core: int) -> Iterator[None]:
    """Another program computes on `core`."""
    program = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    busy = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


@contextlib.contextmanager
def quota(cores: float) -> Iterator[Callable[[Iterable[int]], None]]:
    """Gives a function that puts processes under a quota of CPU time. PermissionError where no group can be made."""
    first = (CGROUP_V1 / "cpu.cfs_quota_us").exists()
    group = (CGROUP_V1 if first else CGROUP_V2) / f"scalebench-test-{os.getpid()}"
    microseconds = round(cores * PERIOD_MICROSECONDS)
    try:
        group.mkdir()
        if first:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(microseconds))
        else:
            (group / "cpu.max").write_text(f"{microseconds} {PERIOD_MICROSECONDS}")
    except OSError as error:
        raise PermissionError(f"no control group with a quota can be made here: {error}") from error

    def put(pids: Iterable[int]) -> None:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))

    try:
        yield put
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Its processes have ended, or are about to."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)
