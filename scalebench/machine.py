"""What this machine offers a run: GPUs (through NVML, honouring CUDA_VISIBLE_DEVICES) or cores. Initialises no
device."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalebench.errors import UserError

NATIVE_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU features (x86 and Arm names) that compute in bfloat16 rather than emulate it."""
NATIVE_BF16_CAPABILITY = (8, 0)
"""First CUDA compute capability with bfloat16 matrix units (Ampere)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device type a run will use here, and how much of it there is."""

    device: Literal["cpu", "cuda"]
    gpu_count: int
    cores: int
    bf16_native: bool
    gpu_names: tuple[str, ...] = ()


def detect(device: Literal["auto", "cpu", "cuda"] = "auto") -> Machine:
    """This machine as seen by `device`; `auto` is `cuda` where a GPU is visible. UserError when `cuda` is asked in
    vain."""
    gpus = visible_gpus()
    if device == "cuda" and not gpus:
        raise UserError(
            "--device cuda was asked but no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')!r}). Check `nvidia-smi`, or use --device cpu."
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device == "cpu" or not gpus:
        return Machine(device="cpu", gpu_count=0, cores=cores, bf16_native=_cpu_has_bf16())
    return Machine(
        device="cuda",
        gpu_count=len(gpus),
        cores=cores,
        bf16_native=all(capability >= NATIVE_BF16_CAPABILITY for _, capability in gpus),
        gpu_names=tuple(name for name, _ in gpus),
    )


def visible_gpus() -> list[tuple[str, tuple[int, int]]]:
    """(name, compute capability) of each GPU a process started here would see; empty without a driver that works."""
    with nvml() as library:
        try:
            return [
                (_text(library.nvmlDeviceGetName(handle)), tuple(library.nvmlDeviceGetCudaComputeCapability(handle)))
                for handle in visible_handles(library)
            ]
        except Exception:  # as nvml() has it; a GPU that has no name cannot be computed on either
            return []


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """pynvml initialised, or None where the package, the driver or a device is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        # pynvml raises its own error classes, OSError and ImportError alike when there is nothing to talk to.
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def visible_handles(library: Any) -> list[Any]:
    """NVML handles in the order of CUDA's device numbers, as CUDA_VISIBLE_DEVICES selects them; none without NVML.

    As in the CUDA runtime, entries are numbers or UUID prefixes as the first one is, the first invalid one hides all
    that follow, and a repeated one hides all. Raises NVML's errors.
    """
    if library is None:
        return []
    everything = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
    selection = os.environ.get("CUDA_VISIBLE_DEVICES")
    if selection is None:
        return everything
    uuids = [_text(library.nvmlDeviceGetUUID(handle)) for handle in everything] if "GPU-" in selection else []
    chosen: list[int] = []
    for entry in selection.split(","):
        index = _by_uuid(entry, uuids) if selection.startswith("GPU-") else _by_number(entry, len(everything))
        if index in chosen:
            return []
        if index is None:
            break
        chosen.append(index)
    return [everything[index] for index in chosen]


def _by_number(entry: str, count: int) -> int | None:
    """Read as C's strtoul does: up to the first character that is no digit."""
    number = re.match(r"\+?[0-9]+", entry.strip())
    return index if number and (index := int(number[0])) < count else None


def _by_uuid(prefix: str, uuids: list[str]) -> int | None:
    matches = [index for index, uuid in enumerate(uuids) if prefix and uuid.startswith(prefix)]
    return matches[0] if len(matches) == 1 else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cpu_has_bf16() -> bool:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return not NATIVE_BF16_FLAGS.isdisjoint(value.split())
    return False
