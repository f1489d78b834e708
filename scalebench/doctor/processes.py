"""Who else is here: on the GPUs, in memory, on the cores, and what earlier runs left behind."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import psutil

from scalebench.doctor import sensors
from scalebench.doctor.finding import Finding, note, ok, problem
from scalebench.doctor.limits import GIB, size
from scalebench.meters import cgroup

GPU_FREE_SHARE = 0.9
MEMORY_LEAST = 2 * GIB
FOREIGN_CORES = 0.7
"""Cores that others keep busy, above which runs differ by more than what is to be measured (seen on two cores)."""
LOAD_SECONDS = 0.5
STARTED_BY_MULTIPROCESSING = ("multiprocessing.spawn", "multiprocessing.forkserver")
LAUNCHED = {"RANK", "WORLD_SIZE"}
"""Variables that a process started by torchrun has."""


def gpu_memory() -> Iterator[Finding]:
    """What is taken already is missing in runs: "CUDA out of memory", or a smaller batch than elsewhere."""
    with sensors.gpus() as (nvml, gpus):
        for gpu in gpus:
            memory = nvml.nvmlDeviceGetMemoryInfo(gpu.handle)
            said = f"{gpu}: {size(memory.free)} of {size(memory.total)} free"
            if memory.free < GPU_FREE_SHARE * memory.total:
                yield problem(said, "end what holds it: nvidia-smi names the processes")
            else:
                yield ok(said)


def gpu_processes() -> Iterator[Finding]:
    """Another process on a GPU takes turns with the run that is measured."""
    with sensors.gpus() as (nvml, gpus):
        for gpu in gpus:
            others = [
                found for found in nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle) if found.pid != os.getpid()
            ]
            if others:
                named = ", ".join(f"{_name(found.pid)} ({found.pid})" for found in others)
                yield problem(f"{gpu}: {named}", f"if it is yours: kill {' '.join(str(found.pid) for found in others)}")
            else:
                yield ok(f"{gpu}: none")


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "a process of another container or user"


def memory() -> Iterator[Finding]:
    """A process that takes more than there is gets killed (exit code -9) without a word of its own."""
    machine, group = psutil.virtual_memory().available, cgroup.free_bytes()
    free = machine if group is None else min(machine, group)
    said = f"{size(free)} available{'' if group is None else ' within the limit of this control group'}"
    if free < MEMORY_LEAST:
        yield problem(said, "end what holds it (ps aux --sort=-rss | head), or raise the limit: docker run --memory")
    else:
        yield ok(said)


def cpu_load() -> Iterator[Finding]:
    """On cores that others use too, the same run differs by a third from one time to the next."""
    cores, before = psutil.cpu_count() or 1, psutil.cpu_times()
    own, started = time.process_time(), time.monotonic()
    time.sleep(LOAD_SECONDS)
    after, wall = psutil.cpu_times(), time.monotonic() - started
    busy = _busy_seconds(after) - _busy_seconds(before) - (time.process_time() - own)
    foreign = max(0.0, busy / wall)
    said = f"others keep {foreign:.1f} of {cores} core(s) busy"
    if foreign > FOREIGN_CORES:
        yield problem(said, "wait, or end what runs: top")
    else:
        yield ok(said)


def _busy_seconds(times: object) -> float:
    return sum(float(getattr(times, name, 0.0)) for name in ("user", "system", "irq", "softirq", "steal"))


def left_over() -> Iterator[Finding]:
    """Ranks of a run that hung or was killed may live on, hold memory and ports, and take time from the next."""
    found = [
        process for process in psutil.process_iter(["name", "cmdline", "ppid", "status"]) if _is_left_over(process)
    ]
    for process in found:
        command = " ".join(process.info["cmdline"])[:80]
        state = "is stopped" if process.info["status"] == psutil.STATUS_STOPPED else "has lost its launcher"
        yield note(f"process {process.pid} {state}: {command}", f"kill -9 {process.pid}")
    if not found:
        yield ok("none of a former run")


def _is_left_over(process: psutil.Process) -> bool:
    idle = process.info["ppid"] == 1 or process.info["status"] == psutil.STATUS_STOPPED
    return bool(
        idle and (process.info["name"] or "").startswith("python") and process.pid != os.getpid() and _is_rank(process)
    )


def _is_rank(process: psutil.Process) -> bool:
    """Whether it was started as one of several: by multiprocessing, or by torchrun."""
    words = " ".join(process.info["cmdline"] or ())
    if any(name in words for name in STARTED_BY_MULTIPROCESSING):
        return True
    with contextlib.suppress(psutil.Error, OSError):
        return process.environ().keys() >= LAUNCHED
    return False


CHECKS = (gpu_memory, gpu_processes, memory, cpu_load, left_over)
