"""Memory of one rank: the CUDA allocator's peaks, the process's resident set, and the bytes its tensors hold at
rest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from scalebench.records.record import MemoryFacts
from scalebench.strategies.base import TrainStep


def resident_bytes() -> int | None:
    """Resident set of this process now, in bytes."""
    return _status_bytes("VmRSS")


def resident_peak_bytes() -> int | None:
    """Largest resident set since `reset_peaks` (or the process's start where the kernel cannot reset it), in bytes."""
    return _status_bytes("VmHWM")


def reset_peaks(device: torch.device) -> None:
    """Let the peaks begin here. On CUDA this is a counter of the host's allocator: nothing is synchronised."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def read_peaks(device: torch.device, resident_before: int | None) -> MemoryFacts:
    """The peaks since `reset_peaks`."""
    cuda = device.type == "cuda"
    return MemoryFacts(
        allocated_peak=torch.cuda.max_memory_allocated(device) if cuda else None,
        reserved_peak=torch.cuda.max_memory_reserved(device) if cuda else None,
        resident_peak=resident_peak_bytes(),
        resident_before=resident_before,
    )


def held_bytes(step: TrainStep) -> dict[str, int]:
    """Bytes this rank's parameters, gradients and optimizer state hold between two steps, each storage counted once."""
    parameters = list(step.module.parameters())
    state = [v for values in step.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return {
        "parameters": storage_bytes(parameters),
        "gradients": storage_bytes(p.grad for p in parameters if p.grad is not None),
        "optimizer_state": storage_bytes(state),
    }


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind `tensors`; of a DTensor, its local shard."""
    seen: dict[int, int] = {}
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        storage = local.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    seen.pop(0, None)
    return sum(seen.values())


def _status_bytes(field: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
