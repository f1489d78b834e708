"""A limit on what one rank may allocate, as if its device had that much memory.

On a CPU the kernel refuses to let the process's own data grow (RLIMIT_DATA): an allocation that does not fit fails at
once and says how much was asked, as on a GPU, and needs no rights. What the rank already holds (interpreter, libraries,
process group) is not counted, as it is not on a GPU. Memory that is reserved counts, touched or not.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch

from scalebench.errors import UnsupportedError
from scalebench.harness.placement import return_freed_memory
from scalebench.meters.memory import data_bytes


@contextlib.contextmanager
def limited_memory(limit_bytes: int | None, device: torch.device) -> Iterator[None]:
    """Inside, this process gets no more than `limit_bytes` of `device` beside what it holds; None: all there is.

    The limit is lifted at the end, but not after an exception: whoever looks for the cause sees what there was. Raises
    UnsupportedError where it cannot be imposed.
    """
    if limit_bytes is None:
        yield
    elif device.type == "cuda":
        with _limited_allocator(limit_bytes, device):
            yield
    else:
        with _limited_data(limit_bytes):
            yield


@contextlib.contextmanager
def _limited_allocator(limit_bytes: int, device: torch.device) -> Iterator[None]:
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextlib.contextmanager
def _limited_data(limit_bytes: int) -> Iterator[None]:
    held = data_bytes()
    if held is None or sys.platform != "linux":
        raise UnsupportedError("a memory limit can be imposed on CPU ranks on Linux only. Leave --memory-limit out.")
    import resource  # not on every platform

    return_freed_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = [held + limit_bytes, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
