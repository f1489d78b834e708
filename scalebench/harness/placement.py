"""Where a rank runs and how it finds the others: threads, cores, device, process group."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from scalebench.spec import ProbeSpec, RunSpec

LOOPBACK = "lo"


@dataclass(frozen=True, kw_only=True)
class Place:
    """This rank's place in the run."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device


def take_place(spec: RunSpec | ProbeSpec) -> Place:
    """Read rank and local rank from the launcher's variables; set threads, cores, the allocator and the CUDA device
    accordingly."""
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if spec.device == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        torch.set_num_threads(share_of_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    else:
        device = torch.device("cpu")
        pin_to_cores(local_rank, spec.cores_per_rank)
        # Variables such as OMP_NUM_THREADS come too late in a process whose parent has imported torch.
        torch.set_num_threads(spec.threads_per_rank or 1)
        keep_freed_memory()
    return Place(rank=rank, local_rank=local_rank, world_size=int(os.environ["WORLD_SIZE"]), device=device)


def share_of_cores(ranks: int) -> int:
    """Threads for a rank beside a GPU, of the cores that `ranks` ranks of this host share: an offloaded optimizer
    computes with them, and by default each rank would take all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks)


def pin_to_cores(local_rank: int, cores_per_rank: int | None) -> None:
    """Give this process its own `cores_per_rank` of the allowed cores; nothing is pinned when None or not enough are
    left."""
    if cores_per_rank is None or not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    mine = allowed[local_rank * cores_per_rank : (local_rank + 1) * cores_per_rank]
    if len(mine) == cores_per_rank:
        os.sched_setaffinity(0, mine)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""The numbers by which mallopt(3) knows the two sizes from which glibc gives freed memory back to the system."""
KEPT_AT_THE_END_BYTES, KEPT_BLOCK_BYTES = 2**30, 2**25
RETURNED_BLOCK_BYTES = 2**16


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees, so that the next step finds its memory mapped.

    By default it unmaps and maps again, as chance has laid out the heap: a thousand page faults in one process' step
    and forty in another's that does the same, a tenth of a 10 ms step. A user's own MALLOC_ variables rule; another C
    library is left as it is.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    _set_thresholds(KEPT_AT_THE_END_BYTES, KEPT_BLOCK_BYTES)


def return_freed_memory() -> None:
    """Let glibc give blocks of `RETURNED_BLOCK_BYTES` and more back as soon as they are freed.

    A heap that keeps them has holes, elsewhere and of other sizes in each process that does the same: up to 119 MiB
    were seen beside 200 MiB in use, so that what fits under a limit would be chance. Steps take more page faults.
    """
    _set_thresholds(RETURNED_BLOCK_BYTES, RETURNED_BLOCK_BYTES)


def _set_thresholds(kept_at_the_end: int, kept_block: int) -> None:
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, kept_at_the_end)
        mallopt(M_MMAP_THRESHOLD, kept_block)


@contextlib.contextmanager
def process_group(spec: RunSpec | ProbeSpec, place: Place, folder: Path | None, needed: bool) -> Iterator[None]:
    """The default process group: gloo on CPU, NCCL (with gloo for CPU tensors) on CUDA.

    Under our own launcher the ranks, all on one machine, meet through a file and talk over loopback only: there is no
    port to choose, and nothing listens beyond the machine. Under a foreign launcher its environment rules.
    """
    if not needed:
        yield
        return
    if folder is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK)
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if spec.device == "cuda" else "gloo",
        init_method=f"file://{folder / 'rendezvous'}" if folder else "env://",
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=spec.timeout_seconds),
        device_id=place.device if spec.device == "cuda" else None,
    )
    yield
    # Left alone on an exception: the process ends anyway, and a neighbour that saw its group torn down would seem to
    # have failed first. Otherwise nobody leaves while another is still inside a collective.
    barrier(place.device)
    # Wrapped modules sit in reference cycles. One that outlives the group ends gloo's threads when it is collected, and
    # waits for them with the interpreter's lock held, which they may need: seen to hang a rank for good.
    gc.collect()
    dist.destroy_process_group()


@functools.cache
def _token(device: torch.device) -> Tensor:
    """What a barrier sends, kept for good: were it freed by gloo's thread while the group is being destroyed, torch 2.6
    would wait there for Python's lock, which the destroying thread holds while it waits for that thread."""
    return torch.zeros(1, device=device)


def barrier(device: torch.device) -> None:
    """All ranks, with all their device work, have come here. A no-op without a process group."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if dist.is_initialized():
        dist.all_reduce(_token(device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
