"""Start real gloo ranks for a test, fast: a fork server with torch already imported, results returned as values."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

# DeepSpeed imports its Muon, and with it the whole compiler, when its first engine is built.
PRELOADED = [
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "pytest",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn.parallel",
    "torch._dynamo",
]
PATIENCE_SECONDS = 280.0
"""For ranks that hang: a little less than a test may take. However busy the machine is, others must not be given up."""


class RankError(AssertionError):
    """A rank raised, died or hung; the message carries its number and its traceback."""


def run_ranks(fn: Callable[..., Result], world_size: int, *args: Any) -> list[Result]:
    """`fn(*args)` on `world_size` fresh processes joined in one gloo group; what each rank returned, by rank.

    `fn` is a module-level function; it, `args` and the results travel by pickle. Each rank uses one thread and the
    loopback interface alone. Raises RankError with the first failing rank's traceback; no process outlives the call.
    """
    folder = Path(tempfile.mkdtemp(prefix="ranks-"))
    payload = pickle.dumps((fn, args))
    ranks = [_start(payload, rank, world_size, folder) for rank in range(world_size)]
    try:
        return _collect(ranks, time.monotonic() + PATIENCE_SECONDS)
    finally:
        for process, _ in ranks:
            process.kill()
            process.join()
        shutil.rmtree(folder, ignore_errors=True)


def _start(payload: bytes, rank: int, world_size: int, folder: Path) -> tuple[ForkServerProcess, Connection]:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # the server imports DeepSpeed, which would look for a GPU
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=_rank_main, args=(payload, theirs, rank, world_size, folder), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _collect(ranks: list[tuple[ForkServerProcess, Connection]], deadline: float) -> list[Any]:
    waiting = {channel: rank for rank, (_, channel) in enumerate(ranks)}
    results: list[Any] = [None] * len(ranks)
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankError(f"ranks {sorted(waiting.values())} gave no result in time")
        for channel in ready:
            assert isinstance(channel, Connection)
            rank = waiting.pop(channel)
            results[rank] = _receive(channel, rank)
    return results


def _receive(channel: Connection, rank: int) -> Any:
    try:
        ok, value = pickle.loads(channel.recv_bytes())
    except EOFError:
        raise RankError(f"rank {rank} died without a word") from None
    if not ok:
        raise RankError(f"rank {rank} failed:\n{value}")
    return value


def _rank_main(payload: bytes, channel: Connection, rank: int, world_size: int, folder: Path) -> None:
    for prefix in ("", "LOCAL_"):
        os.environ |= {f"{prefix}RANK": str(rank), f"{prefix}WORLD_SIZE": str(world_size)}
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    channel.send_bytes(pickle.dumps(_outcome(payload, rank, world_size, folder)))
    # Stay until dismissed: leaving would break off others' collectives, and their errors would hide the first one.
    with contextlib.suppress(EOFError, OSError):
        channel.recv_bytes()
    os._exit(0)


def _outcome(payload: bytes, rank: int, world_size: int, folder: Path) -> tuple[bool, Any]:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects garbage for each engine: not all that was imported, again and again
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
        fn, args = pickle.loads(payload)
        return True, fn(*args)
    except BaseException:
        return False, traceback.format_exc()
