"""Does anything hold the clocks down: heat, power, quotas, the governor?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from scalebench.doctor import sensors
from scalebench.doctor.finding import CannotTellError, Finding, note, ok, problem
from scalebench.meters import cgroup

SLOWED = {"hardware slowdown", "thermal slowdown by the driver", "thermal slowdown by the hardware", "power brake"}
HARMLESS = {"idle"}


def gpu_throttling() -> Iterator[Finding]:
    """A GPU that slows itself down measures its cooling and its power supply, not the strategy."""
    from scalebench.analysis.device import throttle_reasons

    with sensors.gpus() as (nvml, gpus):
        for gpu in gpus:
            reasons = set(throttle_reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu.handle))) - HARMLESS
            named = ", ".join(sorted(reasons))
            if reasons & SLOWED:
                yield problem(
                    f"{gpu}: {named}", f"check cooling and power; see: nvidia-smi -q -d PERFORMANCE -i {gpu.number}"
                )
            elif reasons:
                yield note(f"{gpu}: {named}", f"nvidia-smi -q -d CLOCK,POWER -i {gpu.number}")
            else:
                yield ok(f"{gpu}: nothing slows it")


def persistence_mode() -> Iterator[Finding]:
    """Without it the driver is set up anew for each process: seconds at every start."""
    with sensors.gpus() as (nvml, gpus):
        for gpu in gpus:
            if nvml.nvmlDeviceGetPersistenceMode(gpu.handle):
                yield ok(f"{gpu}: on")
            else:
                yield note(f"{gpu}: off", "sudo nvidia-smi -pm 1")


def cpu_governor(cpus: Path = Path("/sys/devices/system/cpu")) -> Iterator[Finding]:
    """A governor that saves power lets the cores' clocks wander while steps are timed."""
    governors = {path.read_text().strip() for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    if not governors:
        raise CannotTellError(f"no cpufreq in {cpus}, as in most virtual machines")
    named = ", ".join(sorted(governors))
    if governors == {"performance"}:
        yield ok(named)
    else:
        yield note(named, "sudo cpupower frequency-set -g performance")


def cpu_quota() -> Iterator[Finding]:
    """A group with less CPU time than cores is stopped in the middle of steps, again and again."""
    quota, cores = cgroup.cpu_quota(), len(os.sched_getaffinity(0))
    if quota is None:
        yield ok(f"no quota, {cores} core(s)")
    elif quota < cores:
        yield problem(
            f"a quota of {quota:g} core(s) on {cores} core(s)",
            f"give whole cores: docker run --cpuset-cpus 0-{max(int(quota) - 1, 0)} instead of --cpus {quota:g}",
        )
    else:
        yield ok(f"a quota of {quota:g} core(s) on {cores} core(s)")


CHECKS = (gpu_throttling, persistence_mode, cpu_governor, cpu_quota)
