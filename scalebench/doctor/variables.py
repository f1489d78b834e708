"""Variables of the environment that make runs wait, go slowly or not be comparable."""

from __future__ import annotations

import os
from collections.abc import Iterator

from scalebench.doctor.finding import Finding, note, ok, problem
from scalebench.doctor.interpreter import LAUNCHER_VARIABLES

SLOWER = {
    "NCCL_P2P_DISABLE": "NCCL goes through host memory",
    "NCCL_SHM_DISABLE": "NCCL goes through the network",
    "NCCL_IB_DISABLE": "NCCL leaves InfiniBand alone",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "every allocation asks the driver",
}
ENDLESS = ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "NCCL_ASYNC_ERROR_HANDLING")


def debugging() -> Iterator[Finding]:
    """They slow runs down; records made under them are marked not comparable."""
    from scalebench.records.environment import debug_variables_set

    found = debug_variables_set()
    if found:
        yield problem(", ".join(found), f"unset {' '.join(entry.partition('=')[0] for entry in found)}")
    else:
        yield ok("none is set")


def left_by_a_launcher() -> Iterator[Finding]:
    """Left over from torchrun, they make a command take itself for one rank of many, and wait for the others."""
    found = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    if {"RANK", "WORLD_SIZE"} <= set(found):
        yield problem(", ".join(f"{name}={os.environ[name]}" for name in found), f"unset {' '.join(found)}")
    elif found:
        yield note(", ".join(f"{name}={os.environ[name]}" for name in found), f"unset {' '.join(found)}")
    else:
        yield ok("none is set")


def slower_ways() -> Iterator[Finding]:
    """Each of them closes a fast way: right to find a fault with, wrong to measure with."""
    found = [name for name in SLOWER if os.environ.get(name, "0") not in ("", "0")]
    for name in found:
        yield note(f"{name}={os.environ[name]}: {SLOWER[name]}", f"unset {name}")
    if not found:
        yield ok("none is set")


def endless_waits() -> Iterator[Finding]:
    """torch ends a rank whose NCCL collective hangs or fails; with this turned off it waits for ever."""
    found = [name for name in ENDLESS if os.environ.get(name) == "0"]
    for name in found:
        yield problem(f"{name}=0", f"unset {name}")
    if not found:
        yield ok("collectives that hang are ended")


CHECKS = (debugging, left_by_a_launcher, slower_ways, endless_waits)
