"""Lack of memory: which errors say so, how much was asked for, and how much there was."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterable

import psutil

from scalebench.meters import cgroup
from scalebench.records.memory import ShortageFacts

KINDS = ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
SIGNS = (
    "out of memory",  # CUDA, NCCL, cuDNN
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",
    "Cannot allocate memory",  # ENOMEM
    "unable to mmap",
    "bad_alloc",
)
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SIZE = r"([\d.]+) (bytes|[KMGT]iB)"
WORDINGS = {
    "asked": (rf"Tried to allocate {SIZE}", rf"tried to allocate {SIZE}", rf"Unable to allocate {SIZE}"),
    "free": (rf"of which {SIZE} is free", rf"; {SIZE} free"),
    "limit": (rf"total capacity of {SIZE}", rf"; {SIZE} total capacity"),
    "held": (rf"this process has {SIZE} memory in use", rf"Of the allocated memory {SIZE}"),
}
"""How torch on CUDA, torch on a CPU, and numpy put it."""


def is_one(kind: str, message: str) -> bool:
    """Whether an exception of class `kind` with `message` tells of a lack of memory."""
    return kind in KINDS or any(sign in message for sign in SIGNS)


def of_message(message: str) -> ShortageFacts:
    """What `message`, raised in this process just now, says; what it leaves out is looked up for a CPU."""
    said = {name: _size(message, wordings) for name, wordings in WORDINGS.items()}
    allowed = _size(message, (rf"{SIZE} allowed;",))
    if allowed is not None:
        said |= within(allowed, message)
    if said["limit"] is None:
        said |= room()
        if said["asked"] is not None and said["free"] is not None and said["free"] >= said["asked"]:
            said["free"] = None  # the step has let go since then: what there was is not known any more
    return ShortageFacts(**said)


def within(allowed: int, message: str) -> dict[str, int | None]:
    """What there was where a process may have only `allowed` bytes of the GPU, whatever else of it is free."""
    parts = (_size(message, (wording,)) for wording in (rf"Of the allocated memory {SIZE}", rf"and {SIZE} is reserved"))
    return {"limit": allowed, "free": max(0, allowed - sum(filter(None, parts)))}


def of_kill(held: int | None) -> ShortageFacts:
    """Of a process that held `held` bytes when the kernel killed it; the kernel does not say what was asked for."""
    return ShortageFacts(limit=cgroup.memory_limit_bytes() or psutil.virtual_memory().total, held=held, free=0)


def room() -> dict[str, int | None]:
    """Bytes that this process may still allocate, its limit, and what it holds, by the limit that leaves least room."""
    memory, machine = psutil.Process().memory_info(), psutil.virtual_memory()
    rooms = [(machine.available, machine.total)]
    for kind, used in ((resource.RLIMIT_AS, memory.vms), (resource.RLIMIT_DATA, memory.data)):
        allowed, _ = resource.getrlimit(kind)
        if allowed != resource.RLIM_INFINITY:
            rooms.append((max(0, allowed - used), allowed))
    free, limit = cgroup.free_bytes(), cgroup.memory_limit_bytes()
    if free is not None and limit is not None:
        rooms.append((free, limit))
    free, limit = min(rooms)
    return {"free": free, "limit": limit, "held": memory.rss}


def sentence(facts: ShortageFacts) -> str:
    """`1.0 GiB asked, 200 MiB free of 2.0 GiB, 500 MiB held by this rank`, as far as it is known."""
    free = f"{sized(facts.free)} free" if facts.free else ""
    limit = f"{'of ' if free else 'the limit is '}{sized(facts.limit)}" if facts.limit else ""
    parts = (
        f"{sized(facts.asked)} asked" if facts.asked is not None else "",
        f"{free} {limit}".strip(),
        f"{sized(facts.held)} held by this rank" if facts.held is not None else "",
    )
    return ", ".join(filter(None, parts))


def sized(count: int) -> str:
    """Bytes as `20 MiB`, `1.5 GiB`."""
    return f"{count / UNITS['GiB']:.3g} GiB" if count >= UNITS["GiB"] else f"{count / UNITS['MiB']:.3g} MiB"


def _size(message: str, wordings: Iterable[str]) -> int | None:
    for wording in wordings:
        found = re.search(wording, message)
        if found:
            with contextlib.suppress(ValueError):
                return round(float(found[1]) * UNITS[found[2]])
    return None
