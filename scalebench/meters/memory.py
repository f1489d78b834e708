"""Memory of one rank: the CUDA allocator's peaks, the process's resident set, and the bytes its tensors hold at
rest."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from scalebench.records.memory import MemoryFacts


def resident_bytes() -> int | None:
    """Resident set of this process now, in bytes."""
    return _status_bytes("VmRSS")


def resident_peak_bytes() -> int | None:
    """Largest resident set since `reset_peaks` (or the process's start where the kernel cannot reset it), in bytes."""
    return _status_bytes("VmHWM")


def data_bytes() -> int | None:
    """What RLIMIT_DATA limits: private memory that this process may write, touched or not, in bytes."""
    return _status_bytes("VmData")


def reset_peaks(device: torch.device) -> None:
    """Let peaks and counts begin here. On CUDA they are counters of the host's allocator: nothing is synchronised."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.reset_accumulated_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def read_peaks(device: torch.device, resident_before: int | None) -> MemoryFacts:
    """The peaks since `reset_peaks`."""
    cuda = device.type == "cuda"
    return MemoryFacts(
        allocated_peak=torch.cuda.max_memory_allocated(device) if cuda else None,
        reserved_peak=torch.cuda.max_memory_reserved(device) if cuda else None,
        allocation_retries=torch.cuda.memory_stats(device)["num_alloc_retries"] if cuda else None,
        resident_peak=resident_peak_bytes(),
        resident_before=resident_before,
    )


def _status_bytes(field: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
