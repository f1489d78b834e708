"""What the system grants: shared memory, locked memory, open files, processes, temporary files."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from scalebench.doctor.finding import Finding, note, ok, problem
from scalebench.meters import cgroup

MIB = 1 << 20
GIB = 1 << 30
SHM_LEAST, SHM_ENOUGH = 128 * MIB, GIB
FILES_LEAST, FILES_ENOUGH = 256, 1024
PROCESSES_ENOUGH = 512
TEMPORARY_LEAST = 64 * MIB
SHM = Path("/dev/shm")


def shared_memory(folder: Path = SHM) -> Iterator[Finding]:
    """NCCL and workers that load data hand data over through /dev/shm; when it is full they die with a bus error.
    Containers get 64 MB of it unless asked for more."""
    usage = shutil.disk_usage(folder)
    said = f"{size(usage.free)} of {size(usage.total)} free in {folder}"
    remedy = f"docker run --shm-size=8g (or --ipc=host); elsewhere: sudo mount -o remount,size=8g {folder}"
    if not os.access(folder, os.W_OK):
        yield problem(f"{folder} cannot be written", f"sudo chmod 1777 {folder}")
    elif usage.free < SHM_LEAST:
        yield problem(said, remedy)
    else:
        yield note(said, remedy) if usage.free < SHM_ENOUGH else ok(said)


def locked_memory(infiniband: Path = Path("/sys/class/infiniband")) -> Iterator[Finding]:
    """InfiniBand needs memory that is locked: NCCL fails with "ibv_create_cq ... Cannot allocate memory"."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    adapters = [path.name for path in infiniband.glob("*")]
    said = f"{'unlimited' if limit == resource.RLIM_INFINITY else size(limit)}, {len(adapters)} InfiniBand adapter(s)"
    if adapters and limit != resource.RLIM_INFINITY:
        yield problem(said, "ulimit -l unlimited (docker run --ulimit memlock=-1; SLURM: LimitMEMLOCK=infinity)")
    else:
        yield ok(said)


def open_files() -> Iterator[Finding]:
    """Each rank opens connections, logs and shared memory: "Too many open files"."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"at most {soft} per process"
    remedy = f"ulimit -n {min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536}"
    if soft == resource.RLIM_INFINITY or soft >= FILES_ENOUGH:
        yield ok(said)
    else:
        yield problem(said, remedy) if soft < FILES_LEAST else note(said, remedy)


def process_count() -> Iterator[Finding]:
    """Each rank starts tens of threads: "Resource temporarily unavailable", "can't start new thread"."""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    rooms = [room for room in (cgroup.free_processes(),) if room is not None]
    if limit != resource.RLIM_INFINITY:
        rooms.append(limit - _own_threads())
    if not rooms:
        yield ok("unlimited")
    elif min(rooms) < PROCESSES_ENOUGH:
        yield problem(
            f"room for {min(rooms)} more threads", "ulimit -u 65536 (docker run --pids-limit -1); see: ps -eLf | wc -l"
        )
    else:
        yield ok(f"room for {min(rooms)} more threads")


def _own_threads() -> int:
    """Threads of this user, which is what the limit counts."""
    return sum(
        found.info["num_threads"] or 0
        for found in psutil.process_iter(["uids", "num_threads"])
        if found.info["uids"] and found.info["uids"].real == os.getuid()
    )


def address_space() -> Iterator[Finding]:
    """CUDA reserves far more addresses than memory: a limit on them makes it, and large models, fail early."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        yield ok("unlimited")
    else:
        yield problem(f"at most {size(limit)} per process", "ulimit -v unlimited")


def temporary_files() -> Iterator[Finding]:
    """Ranks meet through a file in the temporary folder, and leave their logs there while they run."""
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    said = f"{size(free)} free in {folder}"
    yield problem(said, "make room, or export TMPDIR=... with another") if free < TEMPORARY_LEAST else ok(said)


def size(count: float) -> str:
    """`64 MiB`, `1.5 GiB`."""
    return f"{count / GIB:.3g} GiB" if count >= GIB else f"{count / MIB:.3g} MiB"


CHECKS = (shared_memory, locked_memory, open_files, process_count, address_space, temporary_files)
